"""The answers of arms of every kind, and what they cost."""

from __future__ import annotations

from typing import Any

import torch

from steer_lightning.evaluation.answering import answer
from steer_lightning.evaluation.arms import Arm
from steer_lightning.evaluation.budget import Budget
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.rollout import DecodeEngine, Sampling, completions_of
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.types import Completion

SAMPLING = Sampling(group_size=2, max_new_tokens=4)
PROMPTS = make_prompts(["ab", "c"])


def answers(arm: Arm, seen: list[Any] | None = None) -> tuple[list[Completion], list[Any]]:
    policy, engine = tiny_policy(steering=SteeringVectors()), DecodeEngine()
    torch.manual_seed(0)
    policy.steering.weight.data.normal_()
    engine.setup(policy)
    told: list[Any] = [] if seen is None else seen
    return answer(
        policy, engine, PROMPTS, SAMPLING, arm, 0, lambda row, found: told.append((row, found))
    )


def arm(name: str = "steered", **settings: Any) -> Arm:
    return Arm(name=name, steering=SteeringVectors(), **settings)


def test_plain_answers_are_told_as_they_end() -> None:
    """A prompt of 3 or 2 tokens, and 4 tokens of an answer."""
    seen: list[Any] = []
    found, costs = answers(arm(), seen)
    assert sorted(seen, key=lambda pair: pair[0]) == list(enumerate(found))
    assert [(cost["forward_tokens"], cost["backward_tokens"]) for cost in costs] == [
        *[(7, 0)] * 2,
        *[(6, 0)] * 2,
    ]
    assert len({cost["seconds"] for cost in costs}) == 1
    assert costs[0]["seconds"] > 0
    assert "score" not in costs[0]


def test_answers_within_a_budget_have_no_cost() -> None:
    """2 tokens of thinking, `=`, and 3 tokens of an answer."""
    budget = Budget(max_thinking_tokens=2, answer_prefix="=", max_answer_tokens=3)
    found, costs = answers(arm(budget=budget))
    assert [x.num_tokens for x in found] == [6] * 4
    assert costs == [{}] * 4


def test_refined_answers() -> None:
    """Without steps: the plain ones, each read once more for its score, for the reward twice."""
    plain, _ = answers(arm())
    still = Refinement(steps=0, reward_weight=1.0)
    found, costs = answers(arm(refinement=still, unrefined="steered"))
    assert found == plain
    assert [cost["forward_tokens"] for cost in costs] == [21, 21, 18, 18]
    assert all(cost["score"] == cost["plain_score"] for cost in costs)
    of_base, cheaper = answers(arm("base, mine", refinement=still, unrefined="base", is_base=True))
    assert of_base == plain
    assert [cost["forward_tokens"] for cost in cheaper] == [14, 14, 12, 12], "its reward is 0"


def test_plain_answers_are_those_of_the_engine() -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    drawn = engine.generate(PROMPTS, SAMPLING, seed=3, step=EVALUATION_STEP)
    found, _ = answer(policy, engine, PROMPTS, SAMPLING, arm("base"), 3, lambda *_: None)
    assert found == completions_of(drawn)
