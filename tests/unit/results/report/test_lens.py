"""Pictures of the lens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from steer_lightning.results.report import draw_between, draw_lens
from tests.unit.results.lens.helpers import description


def test_pictures_show_any_token(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first in (description()["first_token"], None):
            (tmp_path / "lens.json").write_text(json.dumps(description(first_token=first)))
            assert draw_lens(tmp_path).stat().st_size > 5000
        pair = {"a": "$a$", "b": "b", "layers_a": [0], "layers_b": [1], "cosines": [[0.5]]}
        (tmp_path / "between.json").write_text(json.dumps({"pairs": [pair, pair]}))
        assert draw_between(tmp_path).stat().st_size > 5000
