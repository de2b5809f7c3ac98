"""The picture of what attention and MLPs make of vectors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from steer_lightning.results.report import draw_inside
from tests.unit.results.lens.helpers import description, inside


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"alone": [{"layer": 3, "attention": None, "mlp": None}]},
        {"together": {"attention": [], "mlp": []}},
    ],
)
def test_pictures_of_models_that_lack_parts(tmp_path: Path, changes: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = description(inside={**inside(), **changes})
        (tmp_path / "lens.json").write_text(json.dumps(found))
        assert draw_inside(tmp_path) == tmp_path / "inside.png"
    assert (tmp_path / "inside.png").stat().st_size > 5000


def test_layers_may_differ_in_their_number_of_heads(tmp_path: Path) -> None:
    found = inside()
    found["together"]["attention"][0] |= {"variation": [0.5] * 50}
    (tmp_path / "lens.json").write_text(json.dumps(description(inside=found)))
    assert draw_inside(tmp_path).stat().st_size > 5000
