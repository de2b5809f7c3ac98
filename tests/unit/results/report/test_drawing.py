"""Pictures with names of any kind; and what becomes of a picture that can't be drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning.results.report import draw_between, draw_comparison, draw_reward_curve, drawn

NAMES = (r"$\frac{$", "$x", "a$b$", r"\alpha", "{", "$^$")
"""Half a formula is an error to matplotlib, where it reads formulas."""


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_formulas(name: str, tmp_path: Path) -> None:
    row = {"benchmark": name, "arm": name, "metric": "avg@1", "value": 0.5, "low": 0.1, "high": 0.9}
    (tmp_path / "results.json").write_text(json.dumps({"rows": [row]}))
    (tmp_path / "metrics.csv").write_text(
        f"benchmark/{name}/accuracy,reward/mean,step\n0.1,,0\n,0.25,1\n,0.75,2\n0.9,,3\n"
    )
    pair = {"a": name, "b": name, "layers_a": [0], "layers_b": [1], "cosines": [[0.5]]}
    (tmp_path / "between.json").write_text(json.dumps({"pairs": [pair]}))
    for draw in (draw_comparison, draw_reward_curve, draw_between):
        assert draw(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_fails_is_told() -> None:
    def fails(folder: Path) -> Path:
        raise ValueError("half a\nformula")

    assert drawn(fails, Path()) == r"not drawn: ValueError: half a\nformula"
