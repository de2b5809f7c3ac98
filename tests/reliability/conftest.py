"""Figures that the tests of this folder leave for docs/reliability.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import config, run, tiny_base  # noqa: F401  # fixtures

Figure = Callable[[str, int], None]


@pytest.fixture
def figure() -> Figure:
    """Keeps a number under a name, where STEER_LIGHTNING_FIGURES names a folder for them."""
    folder = os.environ.get("STEER_LIGHTNING_FIGURES")

    def keep(name: str, value: int) -> None:
        if folder is not None:
            (Path(folder) / f"{name}.json").write_text(json.dumps(value))

    return keep
