"""Verdicts: what they come with, and verifying stored completions again."""

from __future__ import annotations

import pytest

from steer_lightning.evaluation.store import row_of
from steer_lightning.evaluation.verdicts import (
    tell_of_missing,
    verdicts_of,
    verified_anew,
    verifier_facts,
)
from steer_lightning.rewards import FormatReward, MathReward, RewardSum, Scores, WeightedReward
from steer_lightning.types import Completion


def test_facts_of_verifiers() -> None:
    found = verifier_facts(MathReward("last_number"))
    assert (found["name"], found["answer_in"]) == ("MathReward", "last_number")
    assert "class" not in found
    assert verifier_facts(FormatReward("[a-m]")) != verifier_facts(FormatReward("[a-n]"))
    assert verifier_facts(max) == {"name": "max"}


def test_verdicts_come_with_their_outcomes() -> None:
    scores = Scores(
        total=[1.0, None], parts={}, outcomes={}, each={"MathReward": ["right", "timed_out"]}
    )
    assert verdicts_of(scores) == ([1.0, None], ["right", "timed_out"])


def test_arms_without_completions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_missing([{"arm": "base"}, {"arm": "v"}], ["v", "base"])
    assert caplog.text == ""
    tell_of_missing([{"arm": "base"}], ["base", "v\n", "u"])
    assert r"there are no completions of u, v\n: evaluate" in caplog.text


def test_stored_rows_get_new_verdicts_and_keep_the_rest() -> None:
    rows = [
        row_of(
            {"benchmark": "b", "arm": "base", "problem": n, "sample": 0},
            Completion(text=text, question="q", answer="1", num_tokens=n, finished=True),
            0.5,
            "old",
        )
        for n, text in enumerate("xax")
    ]
    judge = RewardSum([WeightedReward(reward=FormatReward("a"))])
    with_new = verified_anew(rows, judge)
    judge.close()
    assert [row["verdict"] for row in with_new] == [0.0, 1.0, 0.0]
    assert [row["num_tokens"] for row in with_new] == [0, 1, 2]
    assert "old" not in {row["outcome"] for row in with_new}
