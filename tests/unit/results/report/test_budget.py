"""The curves of accuracy against tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.results.report import draw_budget
from steer_lightning.results.report.budget import budget_curves
from tests.unit.results.report.helpers import contents


def rows(arm: str, tokens: float, accuracy: float | None) -> list[dict[str, Any]]:
    row: dict[str, Any] = {"benchmark": "sums $x", "arm": arm}
    ends = {"low": accuracy and accuracy - 0.1, "high": accuracy and accuracy + 0.1}
    return [
        {**row, "metric": "avg@4", "value": accuracy, **ends},
        {**row, "metric": "pass@4", "value": 0.9, "low": None, "high": None},
        {**row, "metric": "length", "value": tokens, "low": None, "high": None},
    ]


RESULTS = {
    "rows": [
        *rows("base", 13.0, 0.2),
        *rows("mine", 28.0, 0.9),
        *rows("base, short", 9.0, 0.1),
        *rows("base, wait", 30.0, 0.5),
        *rows("base, none", 30.0, None),
        *rows("mine, short", 9.0, 0.3),
    ],
    "budgets": [
        {"arm": f"{arm}, {name}", "without_budget": arm}
        for arm in ("base", "mine")
        for name in ("short", "wait", "none")
    ],
}


def test_points_are_in_the_order_of_their_tokens() -> None:
    (found,) = budget_curves(RESULTS).values()
    told = {
        arm: [(x["name"], x["tokens"], x["accuracy"]) for x in points]
        for arm, points in found.items()
    }
    assert told == {
        "base": [("short", 9.0, 0.1), ("no budget", 13.0, 0.2), ("wait", 30.0, 0.5)],
        "mine": [("short", 9.0, 0.3), ("no budget", 28.0, 0.9)],
    }
    assert found["base"][0]["accuracy_high"] == pytest.approx(0.2)
    assert found["base"][0]["tokens_low"] is None
    assert budget_curves({"rows": RESULTS["rows"]}) == {}, "of an earlier version"
    assert budget_curves({**RESULTS, "budgets": []}) == {}


def test_the_picture(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    path = draw_budget(tmp_path)
    assert path.name == "budget.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_page_has_the_curves(run: Path) -> None:
    assert contents(run)["budgets"] == {}
    path = run / "evaluation/results.json"
    path.write_text(json.dumps(RESULTS))
    assert list(contents(run)["budgets"]["sums $x"]) == ["base", "mine"]
    path.write_text(json.dumps({**RESULTS, "budgets": [{"arm": "base, short"}]}))
    with pytest.raises(ConfigError, match="budgets is not what `evaluate` writes"):
        contents(run)
