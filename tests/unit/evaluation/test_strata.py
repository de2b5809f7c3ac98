"""Strata by the base's pass rate, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.results import figures
from steer_lightning.evaluation.strata import check_strata, in_strata, num_measured


def rows_of(arm: str, verdicts: list[list[float | None]]) -> list[dict[str, Any]]:
    return [
        {"benchmark": "b", "arm": arm, "problem": p, "sample": n, "verdict": verdict}
        | {"num_tokens": 1, "finished": True}
        for p, of_it in enumerate(verdicts)
        for n, verdict in enumerate(of_it)
    ]


BASE = [
    *([0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]),
    *([0.0, None, 0.0, 0.0], [None, None, 1.0, 1.0]),
]
ARM = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0] * 4, [1.0] * 4]


def test_one_half_of_the_samples_decides_and_the_other_is_measured() -> None:
    rows = [*rows_of("base", BASE), *rows_of("x", ARM)]
    found = in_strata(rows, [0.25, 0.75])
    places = {row["problem"]: row["benchmark"] for row in found}
    assert places == {
        **{0: "b, base 0-25 %", 3: "b, base 0-25 %"},
        **{1: "b, base 25-75 %", 2: "b, base 75-100 %"},
    }, "nothing is known of problem 4"
    assert found[0]["benchmark"] == "b, base 0-25 %"
    mine = [x for x in found if x["arm"] == "x" and x["problem"] == 1]
    assert [(x["sample"], x["verdict"]) for x in mine] == [(0, 1.0), (1, 0.0)]
    table = {(x["benchmark"], x["arm"], x["metric"]): x for x in figures(found, None, None)}
    # problems 0 and 3: the base has 1 of 2 and 0 of 2, the arm all
    assert table["b, base 0-25 %", "base", "avg@2"]["value"] == 0.25
    assert table["b, base 0-25 %", "x", "avg@2"]["difference"] == 0.75
    assert table["b, base 0-25 %", "base", "pass@2"]["value"] == 0.5
    assert table["b, base 25-75 %", "x", "avg@2"]["difference"] == 0.0
    assert table["b, base 75-100 %", "x", "avg@2"]["difference"] == -0.5


def test_a_bound_belongs_to_the_easier_stratum() -> None:
    (row,) = in_strata(rows_of("base", [[1.0, 0.0, 0.0, 0.0]]), [0.5])[:1]
    assert row["benchmark"] == "b, base 50-100 %"


@pytest.mark.parametrize(
    ("strata", "base_sampling", "sizes", "told"),
    [
        ([0.5, 0.2], None, [4], r"strata = \[0\.5, 0\.2\]: must be ascending"),
        ([0.2, 0.2], None, [4], "must be ascending"),
        ([0.0, 0.5], None, [4], "above 0 and below 1"),
        ([0.5], "greedy", [4], "strata = .*needs base_sampling: null"),
        ([0.5], None, [4, 1], "needs at least 2 samples of each problem"),
    ],
)
def test_what_is_refused(strata: Any, base_sampling: Any, sizes: list[int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_strata(strata, base_sampling, sizes)
    check_strata([], base_sampling, [1])  # without strata, anything goes


def test_the_second_half_is_measured() -> None:
    assert [num_measured(n, [0.5]) for n in (2, 3, 4)] == [1, 2, 2]
    assert num_measured(3, []) == 3
    measured = in_strata(rows_of("base", [[0.0] * 3]), [0.5])
    assert len(measured) == num_measured(3, [0.5])
