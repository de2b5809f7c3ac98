"""The picture of pass@k against k."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from steer_lightning.results.report import draw_pass_curve
from steer_lightning.results.report.pass_curve import _panel


def record(arm: str, values: list[float | None], **more: Any) -> dict[str, Any]:
    points = [
        {"k": 2**n, "value": x, "low": x and x - 0.1, "high": x and x + 0.1}
        for n, x in enumerate(values)
    ]
    return {"benchmark": "sums $x", "arm": arm, "points": points, **more}


RECORDS = [
    record("base", [0.2, 0.4, 0.8]),
    record("steered", [0.5, 0.6, None], crosses_at=3),
    record("x 2", [0.1, 0.2, 0.3], crosses_at=None),
]


def test_curves_and_where_they_cross() -> None:
    axes = Figure().subplots()
    _panel(axes, RECORDS)
    base, steered, at, double = axes.get_lines()
    assert (base.get_xdata().tolist(), base.get_ydata().tolist()) == ([1, 2, 4], [20, 40, 80])
    assert (steered.get_xdata().tolist(), steered.get_ydata().tolist()) == ([1, 2], [50, 60])
    assert at.get_xdata() == [3, 3]
    assert double.get_label() == "x 2"
    assert axes.get_xscale() == "log"


def test_the_picture_is_beside_the_figures(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"rows": [], "capability": RECORDS}))
    path = draw_pass_curve(tmp_path)
    assert path.name == "pass_at_k.png"
    assert path.read_bytes().startswith(b"\x89PNG")
