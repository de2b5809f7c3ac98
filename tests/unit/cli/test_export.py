"""The command `export` knows all formats."""

from __future__ import annotations

from typing import get_args, get_type_hints

from steer_lightning.cli.export import export
from steer_lightning.results.export import FORMATS


def test_all_formats_are_of_the_command() -> None:

    assert get_args(get_type_hints(export)["to"]) == tuple(FORMATS)
