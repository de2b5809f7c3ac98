"""What refined answers cost, against votes and best scores of as many plain samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steer_lightning.evaluation.arms import Arm, further_facts
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.refinement_cost import refinement_records, refinements_as_text
from steer_lightning.evaluation.results import Voting
from steer_lightning.evaluation.store import row_of
from steer_lightning.rewards import MathReward
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.types import Completion

VOTING = Voting(answer_in=MathReward().answer_in, compare=lambda pairs: [False] * len(pairs))
BASE = Arm(name="base", steering=SteeringVectors())
MINE = replace(BASE, name="base, mine", refinement=Refinement(steps=3), unrefined="base")
REFINED = further_facts([BASE, MINE], Sampling(), Sampling())["refinements"]


def row(arm: str, problem: int, sample: int, answer: int, **cost: float) -> dict[str, Any]:
    """Makes a row whose answer is right if it is 1."""
    done = Completion(
        text=rf"\boxed{{{answer}}}", question="q", answer="1", num_tokens=4, finished=True
    )
    place = {"benchmark": "sums", "arm": arm, "problem": problem, "sample": sample}
    return row_of(place, done, float(answer == 1), "", cost)


def rows_of(backward: int = 10) -> list[dict[str, Any]]:
    """Two problems with five samples; a plain one has 10 tokens, a refined one 20 and 10 more.

    With k = 3 the fifth and the fourth sample are left over, with k = 2 the fifth.
    """
    answers = {0: [1, 1, 2, 3, 3], 1: [2, 1, 2, 1, 1]}
    scores = {0: [-2.0, -3.0, -1.0, -5.0, -4.0], 1: [-2.0, -1.0, -3.0, -1.0, -2.0]}
    refined = {0: [1, 1, 1, 3, 3], 1: [2, 2, 2, 2, 1]}
    plain = {"forward_tokens": 10, "backward_tokens": 0, "seconds": 0.5}
    cost = {"forward_tokens": 20, "backward_tokens": backward, "seconds": 1.5}
    found = []
    for problem in (0, 1):
        for n in range(5):
            found.append(row("base", problem, n, answers[problem][n], **plain))
            before = scores[problem][n]
            own = {"plain_score": before, "score": before + (n == 2), **cost}
            found.append(row("base, mine", problem, n, refined[problem][n], **own))
    return found


def test_as_many_plain_samples_as_cost_the_same() -> None:
    """(20 + 10) / 10 = 3 samples.

    Of the first three, 1 has two votes of problem 0 and 2 has two of problem 1: a vote is right in
    one of two problems. The best scores are -1 for answer 2, and -1 for answer 1: one of two.
    Refined answers are right 3 of 5 times and 1 of 5 times.
    """
    (record,) = refinement_records(rows_of(), REFINED, VOTING)
    told = {"benchmark": "sums", "arm": "base, mine", "unrefined": "base", "steps": 3}
    told |= {"forward_tokens": 20.0, "backward_tokens": 10.0, "seconds": 1.5, "cost": 3.0}
    told |= {"plain_forward_tokens": 10.0, "plain_seconds": 0.5, "num_plain": 3}
    told |= {"score_passes": 0, "num_scored": 3}
    told |= {"changed": 0.2, "plain_score": -2.4, "score": pytest.approx(-2.2)}
    told |= {"value": pytest.approx(0.4), "vote": 0.5, "best": 0.5}
    told |= {"over_vote": pytest.approx(-0.1), "over_best": pytest.approx(-0.1)}
    assert {key: record[key] for key in told} == told
    assert (record["over_vote_low"], record["over_vote_high"]) == (
        pytest.approx(-0.4),
        pytest.approx(0.2),
    )


def test_several_blocks_of_samples() -> None:
    """2 samples: blocks (1, 1), (2, 3) and (2, 1), (2, 1), where the first of a tie counts.

    The best of problem 0 are 1 and 2, those of problem 1 are 1 and 1.
    """
    (record,) = refinement_records(rows_of(backward=1), REFINED, VOTING)
    assert (record["cost"], record["num_plain"]) == (2.1, 2)
    assert (record["vote"], record["best"]) == (0.25, 0.75)


def test_passes_that_score_plain_samples_count() -> None:
    """Of a cost of 3, 3 samples vote; with a pass for each score, 3 / 2 is rounded to 2.

    The best of two are 1 and 2 of problem 0, and 1 and 1 of problem 1, as above.
    """
    (record,) = refinement_records(rows_of(), [{**REFINED[0], "score_passes": 1}], VOTING)
    assert (record["num_plain"], record["num_scored"]) == (3, 2)
    assert (record["vote"], record["best"]) == (0.5, 0.75)
    line = refinements_as_text([record]).split("\n")[2]
    assert "of 3: 50.0" in line
    assert "of 2: 75.0" in line
    (record,) = refinement_records(rows_of(), [{**REFINED[0], "score_passes": 9}], VOTING)
    assert record["num_scored"] == 1


def test_what_there_are_too_few_samples_for() -> None:
    (record,) = refinement_records(rows_of(backward=50), REFINED, VOTING)
    assert record["num_plain"] == 7
    assert [record[key] for key in ("vote", "best", "over_vote", "over_best")] == [None] * 4
    assert record["value"] == pytest.approx(0.4)
    (record,) = refinement_records(rows_of(), REFINED, None)
    assert (record["vote"], record["over_vote"], record["best"]) == (None, None, 0.5)
    (record,) = refinement_records([{**x, "verdict": None} for x in rows_of()], REFINED, VOTING)
    assert (record["value"], record["vote"], record["best"]) == (None, None, None)
    assert refinement_records(rows_of(), [], VOTING) == []


def test_arms_without_rows_are_left_out() -> None:
    """Such as an arm of which the stored evaluation that is verified again knows nothing."""
    other = {**REFINED[0], "arm": "base, other"}
    lost = {**REFINED[0], "unrefined": "gone"}
    (record,) = refinement_records(rows_of(), [*REFINED, other], VOTING)
    assert record["arm"] == "base, mine"
    assert refinement_records(rows_of(), [lost], VOTING) == []


def test_earlier_records_know_the_arms() -> None:
    """One record for each benchmark and arm, although there are two of the same arm before."""
    rows = [*rows_of(), *({**x, "benchmark": "more"} for x in rows_of())]
    first = refinement_records(rows, REFINED, VOTING)
    assert [(x["benchmark"], x["arm"]) for x in first] == [("sums", MINE.name), ("more", MINE.name)]
    assert refinement_records(rows, first, VOTING) == first
    wrong = [{**x, "verdict": 0.0} for x in rows]
    assert [x["value"] for x in refinement_records(wrong, first, VOTING)] == [0, 0]


def test_the_table() -> None:
    records = [
        *refinement_records(rows_of(), REFINED, VOTING),
        *refinement_records(rows_of(backward=50), REFINED, VOTING),
    ]
    title, head, first, second = refinements_as_text(records).split("\n")
    assert title == "sums, refined answers and plain samples at equal cost in tokens"
    told = "avg changed forwards backwards ms (plain) cost vote against vote best score"
    assert head.split() == [*told.split(), "against", "best"]
    told = "base, mine 40.0 [20.0, 60.0] 20.0 20 10 1500 (500) 3.0 of 3: 50.0 [0.0, 100.0] "
    told += "-10.0 [-40.0, +20.0] of 3: 50.0 [0.0, 100.0] -10.0 [-80.0, +60.0]"
    assert first.split() == told.split()
    assert second.split()[-8:] == ["of", "7:", "-", "-"] * 2


def test_names_in_the_table_stay_on_their_line() -> None:
    (record,) = refinement_records(rows_of(), REFINED, None)
    told = refinements_as_text([{**record, "arm": "a\nb\x1b[31m", "benchmark": "c\nd"}])
    assert told.count("\n") == 2
    assert "\x1b" not in told
