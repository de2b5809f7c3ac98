"""From completions with verdicts to a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steer_lightning.evaluation.at_k import IncomparableShare, Sample, UnjudgedShare
from steer_lightning.evaluation.results import (
    INSTRUCTED,
    Voting,
    as_text,
    figures,
    measure,
    metrics_for,
    samples_of,
    table_rows,
)
from steer_lightning.evaluation.store import LATER, SCHEMA, read_rows, row_of, write_rows
from steer_lightning.evaluation.verdicts import verdicts_of
from steer_lightning.results.report.curve import benchmark_of
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward
from steer_lightning.types import Completion
from tests.reliability.hostile import boxed


def test_what_can_not_be_judged_is_compared_with_nothing() -> None:
    asked = []

    def compare(pairs):  # type: ignore[no-untyped-def]
        asked.extend(pairs)
        return [False] * len(pairs)

    answers = ["9^{9^9}", "x", "8^{8^8}", "9^{9^9}", "y"]
    rows: list[dict[str, Any]] = [
        {"problem": 0, "sample": n, "completion": boxed(answer), "verdict": verdict}
        | {"num_tokens": 1, "finished": True}
        for n, (answer, verdict) in enumerate(
            zip(answers, [None, 0.0, None, None, 1.0], strict=True)
        )
    ]
    found = samples_of(rows, Voting(answer_in="boxed", compare=compare))
    assert [sample.vote for sample in found[0]] == [0, 1, 2, 0, 3]
    assert asked == [("y", "x")]


def test_the_table_shows_the_difference_to_the_base() -> None:
    base = {"avg@1": np.array([0.0, 1.0, 0.0, 0.0]), "length": np.array([10.0] * 4)}
    steered = {"avg@2": np.array([1.0, 1.0, 0.5, 0.0]), "length": np.array([12.0] * 4)}
    rows = table_rows("b", {"base": base, "steered": steered})
    found = {(row["arm"], row["metric"]): row for row in rows}
    assert found["steered", "avg@2"]["difference"] == pytest.approx(0.375)
    assert found["steered", "length"]["difference"] == 2.0
    assert "difference" not in found["base", "avg@1"]
    json.dumps(rows, allow_nan=False)
    text = as_text(rows)
    assert "b (4 problems)" in text
    head, first, second = text.splitlines()[1:]
    assert head.split() == ["avg@1", "avg@2", "against", "base", "length"]
    assert first.split()[:3] == ["base", "25.0", "[0.0,"]
    assert second.split()[:3] == ["steered", "-", "62.5"]
    assert "  +37.5 [" in second, "of a base that is sampled once"
    assert "12.0 [12.0, 12.0]" in second


def completion(answer: str, gold: str) -> Completion:
    text = rf"\boxed{{{answer}}}"
    return Completion(text=text, question="q", answer=gold, num_tokens=1, finished=True)


def evaluated(answers: list[str], gold: str) -> list[dict[str, Any]]:
    """Rows of one problem, as `evaluate` keeps them."""
    completions = [completion(answer, gold) for answer in answers]
    scores = RewardSum([WeightedReward(reward=MathReward())])(completions)
    rows = []
    for n, (one, verdict, outcome) in enumerate(
        zip(completions, *verdicts_of(scores), strict=True)
    ):
        place = {"benchmark": "clock", "arm": "base", "problem": 0, "sample": n}
        rows.append(row_of(place, one, verdict, outcome))
    return rows


def means_of(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    voting = Voting(answer_in="boxed", compare=lambda pairs: [False] * len(pairs))
    metrics = metrics_for(len(rows), [], votes=True)
    values = measure(samples_of(rows, voting), metrics)
    return {row["metric"]: row["value"] for row in table_rows("clock", {"base": values})}


def test_one_right_of_eight_is_an_eighth() -> None:
    clocks = ["3:00", "1:00", "5", "3:30", "x", r"\frac{1}{0}", "2", "12"]
    found = means_of(evaluated(clocks, "3:00"))
    assert found["avg@8"] == 0.125
    assert "incomparable" not in found
    assert "unjudged" not in found


def rows_of(arm: str, problem: int, verdicts: list[float]) -> list[dict[str, Any]]:
    done = Completion(text="x", question="q", answer="1", num_tokens=4, finished=True)
    place = {"benchmark": "sums", "arm": arm, "problem": problem}
    return [row_of({**place, "sample": n}, done, x, "") for n, x in enumerate(verdicts)]


def test_figures_by_hand() -> None:
    """Base: 0.5 and 0 are 1/4, and one problem of two is solved; steered: 1 and 0.5 are 3/4."""
    rows = [
        *rows_of("base", 0, [1.0, 0.0]),
        *rows_of("base", 1, [0.0, 0.0]),
        *rows_of("steered", 0, [1.0, 1.0]),
        *rows_of("steered", 1, [0.0, 1.0]),
    ]
    found = {(x["arm"], x["metric"]): x for x in figures(rows, None, None)}
    assert found["base", "avg@2"]["value"] == 0.25
    assert found["base", "pass@2"]["value"] == 0.5
    assert found["steered", "avg@2"]["value"] == 0.75
    assert found["steered", "avg@2"]["difference"] == 0.5
    assert found["steered", "pass@2"]["value"] == 1.0
    passed = {x["metric"] for x in figures(rows, None, [2, 3]) if x["metric"].startswith("pass@")}
    assert passed == {"pass@2"}, "of two samples no three can be drawn"


def test_instructions_are_shown_where_problems_have_some() -> None:
    rows = [*rows_of("base", 0, [1.0, 0.0]), *rows_of("base", 1, [1.0, 1.0])]
    assert not [x for x in figures(rows, None, []) if x["metric"] in INSTRUCTED]
    for row, share in zip(rows, (0.0, 0.5, None, None), strict=True):
        row["followed"] = share
    found = {x["metric"]: x for x in figures(rows, None, []) if x["metric"] in INSTRUCTED}
    assert {name: row["value"] for name, row in found.items()} == {
        **{"hard": 0.0, "soft": 0.25, "right and hard": 0.0}
    }
    assert found["hard"]["num_without"] == 1, "the second problem has no instructions"


def test_the_table_leaves_smaller_k_to_the_curve() -> None:
    rows = rows_of("base", 0, [1.0, 0.0, 0.0, 0.0])
    head = as_text(figures(rows, None, [4, 2, 3])).splitlines()[1]
    assert head.split()[:4] == ["avg@4", "against", "base", "pass@4"]
    assert "pass@2" not in head


def test_incomparable_answers_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(gold: Any, target: Any, **_: Any) -> bool:
        if "w" in str(target):
            raise ValueError("can't be compared")
        return False

    monkeypatch.setattr("math_verify.verify", verify)
    found = means_of(evaluated([r"\sqrt{2}", "w", "3", "w+1"], r"\sqrt{2}"))
    assert (found["avg@4"], found["incomparable"]) == (0.25, 0.5)
    assert "unjudged" not in found


def test_a_gold_answer_at_fault_is_left_out_and_told() -> None:
    found = means_of(evaluated(["5", "x"], r"\frac{1}{0}"))
    assert found["avg@2"] is None
    assert found["unjudged"] == 1.0
    assert "incomparable" not in found


def test_both_shares_by_hand() -> None:
    verdicts = [(None, False), (0.0, True), (0.0, False), (1.0, False)]
    samples = [
        Sample(verdict=verdict, num_tokens=1, finished=True, is_incomparable=incomparable)
        for verdict, incomparable in verdicts
    ]
    assert IncomparableShare().number(samples) == UnjudgedShare().number(samples) == 0.25


def test_the_table_shows_them_where_one_arm_has_some() -> None:
    silent, loud = evaluated(["3:00", "5"], "3:00"), evaluated(["5", "x"], r"\frac{1}{0}")
    metrics = [
        measure(samples_of(rows, None), metrics_for(2, [], False)) for rows in (silent, loud)
    ]
    rows = table_rows("clock", {"base": metrics[0], "steered": metrics[1]})
    shares = {(row["arm"], row["metric"]): row["value"] for row in rows}
    assert shares["base", "unjudged"] == 0.0
    assert shares["steered", "unjudged"] == 1.0
    assert "unjudged" in as_text(rows)
    assert "unjudged" not in as_text(table_rows("clock", {"base": metrics[0]}))


def test_what_could_not_be_compared_is_compared_with_no_other_answer() -> None:
    asked: list[tuple[str, str]] = []

    def compare(pairs: Any) -> list[bool]:
        asked.extend(pairs)
        return [False] * len(pairs)

    rows = evaluated(["x", "y", "8^{8^8}"], r"\sqrt{2}")[:2]
    tower = {**rows[0], "sample": 2, "completion": r"\boxed{9^{9^9}}", "outcome": "incomparable"}
    found = samples_of([*rows, tower], Voting(answer_in="boxed", compare=compare))
    assert [sample.vote for sample in found[0]] == [0, 1, 2]
    assert [sample.is_incomparable for sample in found[0]] == [False, False, True]
    assert asked == [("y", "x")]


def test_outcomes_are_kept_and_earlier_files_have_none(tmp_path: Path) -> None:
    rows = evaluated(["3:00", "5"], "3:00")
    write_rows(tmp_path / "new.parquet", rows)
    assert [row["outcome"] for row in read_rows(tmp_path / "new.parquet")] == ["right", "wrong"]
    assert [row["followed"] for row in read_rows(tmp_path / "new.parquet")] == [None, None]
    earlier = pa.schema([field for field in SCHEMA if field.name not in LATER])
    pq.write_table(pa.Table.from_pylist(rows, schema=earlier), tmp_path / "old.parquet")
    for name in LATER:
        assert [row[name] for row in read_rows(tmp_path / "old.parquet")] == [None, None]


def test_a_benchmark_may_have_slashes_in_its_name() -> None:
    assert benchmark_of("benchmark/math/algebra/accuracy") == "math/algebra"
    assert benchmark_of("benchmark/gsm8k/accuracy") == "gsm8k"
    assert benchmark_of("benchmark/gsm8k/cut_off_share") is None
    assert benchmark_of("reward/mean") is None


def test_names_of_benchmarks_and_arms_are_one_line_each() -> None:
    row: dict[str, Any] = {"benchmark": "math\nerror: fake", "arm": "base\nerror: fake\x1b[2J"}
    row |= {"metric": "avg@1", "value": 0.5, "low": None, "high": None, "num_problems": 1}
    assert as_text([row]).splitlines() == [
        r"math\nerror: fake (1 problems)",
        "                          avg@1  against base",
        r"base\nerror: fake\x1b[2J  50.0",
    ]
