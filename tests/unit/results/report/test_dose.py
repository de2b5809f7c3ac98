"""The picture of benefit and harm by scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steer_lightning.results.report import draw_dose, has_doses
from steer_lightning.results.report.dose import _accuracies, _doses


def row(arm: str, result: str, scale: float, kl: float) -> dict[str, Any]:
    found: dict[str, Any] = {"arm": arm, "result": result, "scale": scale}
    for name in ("kl", "perplexity_ratio"):
        found |= {name: kl, f"{name}_low": None, f"{name}_high": None}
    return found


ROWS = [
    row("base", "", 0.0, 0.0),
    row("one x 2", "one", 2.0, 0.4),
    row("one", "one", 1.0, 0.1),
    row("one without layer 3", "", 1.0, 0.2),
    row("two", "two", 1.0, 0.3),
]


def accuracy(arm: str, value: float | None, metric: str = "avg@4") -> dict[str, Any]:
    ends = {"low": value, "high": value}
    return {"benchmark": "sums $x", "arm": arm, "metric": metric, "value": value, **ends}


def test_scales_of_one_result_by_hand() -> None:
    doses = _doses(ROWS)
    assert {name: [s for s, _ in points] for name, points in doses.items()} == {"one": [0, 1, 2]}
    assert [found["kl"] for _, found in doses["one"]] == [0, 0.1, 0.4]
    rows = [accuracy("one x 2", 0.5), accuracy("base", 0.1), accuracy("one", None)]
    rows += [accuracy("one", 9.0, "length"), accuracy("two", 0.2)]
    ((name, points),) = _accuracies(rows, doses["one"])
    assert (name, [(scale, found["value"]) for scale, found in points]) == (
        "sums $x",
        [(0, 0.1), (2, 0.5)],
    )


def test_when_there_is_a_picture(tmp_path: Path) -> None:
    effects: dict[str, Any] = {"base_knows_it": True, "rows": ROWS}
    assert has_doses(effects)
    assert not has_doses(None)
    assert not has_doses({**effects, "base_knows_it": False})
    assert not has_doses({**effects, "rows": [*ROWS[:1], ROWS[2], ROWS[4]]})
    results = {"rows": [accuracy("base", 0.1), accuracy("one", 0.5)], "side_effects": effects}
    (tmp_path / "results.json").write_text(json.dumps(results))
    path = draw_dose(tmp_path)
    assert path.name == "dose.png"
    assert path.read_bytes().startswith(b"\x89PNG")
