"""From completions with verdicts to a table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from steer_lightning.evaluation.results import Voting, as_text, samples_of, table_rows
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
