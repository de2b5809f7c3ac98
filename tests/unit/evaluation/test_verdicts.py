"""Verdicts: what they come with, and verifying stored completions again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.store import read_rows, row_of, write_rows
from steer_lightning.evaluation.verdicts import (
    judges_of,
    tell_of_missing,
    tell_of_unstored,
    verdicts_of,
    verified_anew,
    verifier_facts,
)
from steer_lightning.rewards import (
    FormatReward,
    InstructionReward,
    MathReward,
    RewardPool,
    RewardSum,
    Scores,
    WeightedReward,
)
from steer_lightning.testing import make_prompts
from steer_lightning.types import Completion


def test_facts_of_verifiers() -> None:
    found = verifier_facts(MathReward("last_number"))
    assert (found["name"], found["answer_in"]) == ("MathReward", "last_number")
    assert "class" not in found
    assert verifier_facts(FormatReward("[a-m]")) != verifier_facts(FormatReward("[a-n]"))
    assert verifier_facts(max)["name"] == "max"


class Tolerant:
    """A reward with a private setting."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def __call__(self, completions: Any) -> Any:
        return [self._tolerance] * len(completions)


def test_a_private_setting_makes_another_verifier() -> None:
    assert verifier_facts(Tolerant(1)) == verifier_facts(Tolerant(1))
    assert verifier_facts(Tolerant(1)) != verifier_facts(Tolerant(2))


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


def judged(columns: dict[str, object], verdict: float | None = 0.5) -> list[dict[str, Any]]:
    done = Completion(
        text="no comma", question="q", answer="1", num_tokens=2, finished=True, columns=columns
    )
    return [row_of({"benchmark": "b", "arm": "base", "problem": 0, "sample": 0}, done, verdict, "")]


def test_a_verifier_reads_the_columns_of_stored_rows(tmp_path: Path) -> None:
    """The completion has no commas, as the problem's only instruction asks."""
    columns = {"instructions": [{"kind": "no_commas", "value": None}]}
    write_rows(tmp_path / "rows.parquet", judged(columns))
    judge = RewardSum([WeightedReward(reward=InstructionReward())])
    (row,) = verified_anew(read_rows(tmp_path / "rows.parquet"), judge)
    judge.close()
    assert (row["verdict"], row["columns"]) == (1.0, json.dumps(columns))


def test_verdicts_are_not_lost() -> None:
    """Without the column, an instruction reward has no verdict on anything."""
    judge = RewardSum([WeightedReward(reward=InstructionReward())])
    earlier = judged({})[0] | {"columns": None}
    with pytest.raises(ConfigError, match=r"none of the 1 completions gets a verdict.*would be"):
        verified_anew([earlier], judge)
    (row,) = verified_anew(judged({}, None), judge)
    judge.close()
    assert row["verdict"] is None, "it had none before"


def test_columns_that_are_not_stored_are_told(caplog: pytest.LogCaptureFixture) -> None:
    (prompt,) = make_prompts(["a"])
    odd = replace(prompt.problem, columns={"plain": [1, None], "odd": {2}, "other": object()})
    tell_of_unstored("sums", [prompt])
    assert caplog.text == ""
    tell_of_unstored("sums", [prompt, replace(prompt, problem=odd)])
    assert "benchmarks.sums: the columns odd, other hold values" in caplog.text
    assert json.loads(judged(odd.columns)[0]["columns"]) == {"plain": [1, None]}


def test_answers_vote_if_they_can_be_compared() -> None:
    pool = RewardPool()
    judge, voting = judges_of(MathReward("last_number"), pool)
    judge.close()
    assert voting is not None
    assert voting.answer_in == "last_number"
    judge, voting = judges_of(FormatReward("a"), pool)
    judge.close()
    assert voting is None
