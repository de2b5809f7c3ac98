"""Refined answers: never worse by the objective, each for itself, and nothing without steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steer_lightning.evaluation.refined_answers import Refined, answer_refined
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling, completions_of
from steer_lightning.rollout.completions import row_uniforms
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.types import Prompt

SAMPLING = Sampling(group_size=2, max_new_tokens=9, eos_token_ids=list(range(3, 20)))
PROMPTS = make_prompts(["ab", "c", "defg"])
BRISK = Refinement(learning_rate=0.1)


def vivid_policy() -> Policy:
    """Makes a policy whose distributions are far from even, steered by random vectors."""
    policy = tiny_policy(steering=SteeringVectors())
    torch.manual_seed(0)
    for parameter in policy.model.parameters():
        parameter.data.mul_(2.5)
    policy.steering.weight.data.normal_(std=0.3)
    return policy


def refined(
    refinement: Refinement,
    policy: Policy | None = None,
    engine: Any = None,
    prompts: list[Prompt] = PROMPTS,
    sampling: Sampling = SAMPLING,
    seed: int = 0,
) -> list[Refined]:
    policy, engine = policy or vivid_policy(), engine or DecodeEngine()
    engine.setup(policy)
    return answer_refined(policy, engine, prompts, sampling, refinement, seed)


@pytest.mark.parametrize("engine", [DecodeEngine, GenerateEngine])
def test_without_steps_answers_are_the_plain_ones(engine: Callable[[], Any]) -> None:
    policy, answers = vivid_policy(), engine()
    found = refined(Refinement(steps=0), policy, answers)
    plain = answers.generate(
        PROMPTS, SAMPLING, seed=0, step=EVALUATION_STEP, on_completion=lambda *_: None
    )
    assert [x.completion for x in found] == completions_of(plain)
    assert all(x.score == x.plain_score for x in found)


def test_the_objective_never_falls() -> None:
    """Continuations are random and many are worse; only better ones take a place."""
    changed = 0
    for seed in range(4):
        found = refined(BRISK, seed=seed)
        assert all(x.score >= x.plain_score for x in found)
        changed += sum(x.score > x.plain_score for x in found)
        plain = [x.completion for x in refined(Refinement(steps=0), seed=seed)]
        for own, before in zip(found, plain, strict=True):
            assert (own.completion == before) == (own.score == own.plain_score)
    assert 4 < changed < 24
    more, fewer = (
        sum(x.score for x in refined(Refinement(learning_rate=0.1, max_rollouts=most)))
        for most in (7, 1)
    )
    assert more > fewer


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_scores_are_log_likelihoods_of_the_answers(weight: float) -> None:
    """Answers are read again from their ids, at scale 1 and at scale 0."""
    policy, kept = vivid_policy(), []
    refinement = Refinement(learning_rate=0.1, reward_weight=weight)
    engine = DecodeEngine()
    engine.setup(policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "steer_lightning.evaluation.refined_answers.completions_of_rows",
            lambda policy, rows: kept.extend(rows) or [None] * len(rows),
        )
        found = answer_refined(policy, engine, PROMPTS, SAMPLING, refinement, 0)
    assert any(x.score > x.plain_score for x in found)
    for row, own in zip(kept, found, strict=True):
        ids = torch.tensor([[*row.prompt.token_ids, *row.ids]])
        totals = []
        for scale in (1.0, 0.0):
            with policy.at_scale(scale), torch.no_grad():
                logits = policy.model(input_ids=ids).logits[0, -len(row.ids) - 1 : -1]
            totals.append(
                float(logits.log_softmax(-1)[range(len(row.ids)), row.ids].double().sum())
            )
        expected = totals[0] + weight * (totals[0] - totals[1])
        assert own.score == pytest.approx(expected, abs=1e-3)
        assert len(row.ids) <= 9
        assert row.finished == (row.ids[-1] in {*SAMPLING.eos_token_ids, *policy.eos_token_ids})


def test_an_answer_does_not_depend_on_those_beside_it() -> None:
    whole = refined(BRISK)
    assert refined(BRISK) == whole
    alone = [x for prompt in PROMPTS for x in refined(BRISK, prompts=[prompt])]
    assert alone == whole
    assert refined(BRISK, seed=1) != whole


def test_what_answers_cost() -> None:
    """Each text is sampled and scored; its slopes take another pass, forwards and backwards.

    With no token below the confidence, nothing is sampled again. The reward needs the passes at
    scale 0, too, unless the arm itself is at scale 0.
    """
    policy = vivid_policy()

    def passes(**settings: Any) -> tuple[int, int]:
        found = refined(Refinement(**settings), policy)[0]
        length = len(PROMPTS[0].token_ids) + found.completion.num_tokens
        assert found.forward_tokens % length == found.backward_tokens % length == 0
        return found.forward_tokens // length, found.backward_tokens // length

    assert passes(steps=0) == (2, 0)
    assert passes(max_confidence=1e-9) == (3, 1)
    assert passes(steps=0, reward_weight=1.0) == (3, 0)
    assert passes(max_confidence=1e-9, reward_weight=1.0) == (5, 2)
    policy.attachment.scale = 0.0
    assert passes(max_confidence=1e-9, reward_weight=1.0) == (3, 1)
    more = refined(BRISK)[0]
    assert more.forward_tokens > 3 * (3 + 1)


def test_greedy_answers_change_only_where_that_helps() -> None:
    greedy = Sampling(group_size=1, temperature=0, max_new_tokens=9)
    found = refined(Refinement(learning_rate=1.0), sampling=greedy)
    assert any(x.score > x.plain_score for x in found), "greedy is not the likeliest text"
    assert all(x.score >= x.plain_score for x in found)


def test_each_token_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on the seed, the place and the number of the row."""
    asked: list[tuple[int, int, int]] = []

    def uniforms(seed: int, place: int, numbers: list[int], *rest: int) -> torch.Tensor:
        asked.append((seed, place, *numbers))
        return row_uniforms(seed, place, numbers, *rest)

    where = "steer_lightning.evaluation.refined_answers.row_uniforms"
    monkeypatch.setattr(where, uniforms)
    refined(Refinement(max_rollouts=1), seed=5)
    assert {seed for seed, _, _ in asked} == {5}
    assert {number for _, _, number in asked} == set(range(6))
    assert len(set(asked)) == len(asked) > 6
