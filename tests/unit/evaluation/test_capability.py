"""Curves of pass@k that cross, and problems that only one arm solves, by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from steer_lightning.evaluation.capability import (
    _first_crossings,
    capability,
    capability_as_text,
    count,
    crossing,
    solved,
    values_at,
)

QUESTIONS = dict(enumerate("abcdefgh"))


def rows_of(arm: str, rights: list[int], size: int = 4) -> list[dict[str, Any]]:
    """Rows of problems 0, 1, ... whose first `rights` samples of `size` are right."""
    return [
        {"benchmark": "b", "arm": arm, "problem": p, "sample": n, "question": QUESTIONS[p]}
        | {"verdict": float(n < right)}
        for p, right in enumerate(rights)
        for n in range(size)
    ]


def test_a_crossing_by_hand() -> None:
    """Base: 1 of 4 twice, k / 4. Arm: all of one problem and none of the other, 1 / 2 at each k."""
    base, own = count(rows_of("base", [1, 1])), count(rows_of("x", [4, 0]))
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(values_at(base, k), [k / 4, k / 4])
    # differences: +1/4, 0, -1/4, -1/2
    found = crossing(own, base, 4)
    assert found["crosses_at"] == 3, "at k = 2 neither leads"
    # it crosses if both problems are drawn, with chance 1/2; either one twice never crosses
    assert found["crosses_in"] == pytest.approx(1 / 2, abs=0.02)
    assert crossing(base, own, 4)["crosses_at"] == 3
    assert crossing(own, own, 4) == {"crosses_at": None, "crosses_in": 0.0}


def test_rounding_errors_are_no_lead() -> None:
    curves = np.array([[1e-17, -0.5, -0.1], [0.5, -1e-17, -0.2], [0.0, 0.0, 0.0]])
    assert _first_crossings(curves).tolist() == [0, 3, 0]


def test_a_crossing_needs_problems_that_are_judged_throughout() -> None:
    rows = rows_of("x", [4, 0])
    rows[0]["verdict"] = None
    base, own = count(rows_of("base", [1, 1])), count(rows)
    assert own.judged.tolist() == [3, 4]
    assert np.isnan(values_at(own, 4)).tolist() == [True, False]
    assert crossing(own, base, 4) == {"crosses_at": None, "crosses_in": None}, "one problem is left"
    rows[4]["verdict"] = None
    assert crossing(count(rows), base, 4) == {"crosses_at": None, "crosses_in": None}


def test_who_solves_what_the_other_never_solves() -> None:
    rows = rows_of("x", [4, 0, 2, 0, 1])
    for row in rows[16:]:
        row["verdict"] = None  # nothing of the last problem can be judged
    found = solved(count(rows), count(rows_of("base", [0, 3, 1, 0, 1])), QUESTIONS)
    assert found == {
        "num_both": 1,
        "num_neither": 1,
        "only_arm": [{"problem": 0, "question": "a", "num_right": 4}],
        "only_base": [{"problem": 1, "question": "b", "num_right": 3}],
    }


def test_records_and_text() -> None:
    rows = [*rows_of("base", [1, 1]), *rows_of("x", [4, 0]), *rows_of("once", [1, 0], 1)]
    base, own, once = capability(rows, [4, 1, 2, 8])
    assert [(p["k"], p["value"]) for p in base["points"]] == [(1, 0.25), (2, 0.5), (4, 1.0)]
    assert [p["difference"] for p in own["points"]] == [0.25, 0.0, -0.5]
    assert (own["points"][2]["difference_low"], own["points"][2]["difference_high"]) == (-1, 0)
    assert "difference" not in base["points"][0]
    assert (own["crosses_at"], own["num_both"], len(own["only_base"])) == (3, 1, 1)
    assert "crosses_at" not in once, "a single sample is not compared with four"
    json.dumps([base, own, once], allow_nan=False)
    assert capability(rows, [4]) == [], "one point is no curve"
    lines = capability_as_text([base, own]).splitlines()
    assert lines[1].split() == ["k", "base", "x", "against", "base"]
    assert lines[4].split() == [
        *("4", "100.0", "[100.0,", "100.0]", "50.0", "[0.0,", "100.0]", "-50.0", "[-100.0,"),
        "+0.0]",
    ]
    assert lines[5].startswith("x: crosses the base at k = 3 (crosses in ")
    assert lines[5].endswith("solved by both: 1, only by x: 0, only by the base: 1, by neither: 0")


def test_names_of_benchmarks_and_arms_are_one_line_each() -> None:
    rows = [*rows_of("base", [1]), *rows_of("x\nerror: fake\x1b[2J", [2])]
    rows = [{**row, "benchmark": "b\nerror: fake"} for row in rows]
    lines = capability_as_text(capability(rows, [1, 2])).splitlines()
    assert lines[0] == r"b\nerror: fake, pass@k"
    assert r"x\nerror: fake\x1b[2J" in lines[1]
    assert lines[4].startswith(r"x\nerror: fake\x1b[2J: does not cross")
    assert len(lines) == 5
