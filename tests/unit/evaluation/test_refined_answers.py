"""Refined answers: never worse by the objective, each for itself, and nothing without steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from steer_lightning.evaluation.continued import GrowingRow
from steer_lightning.evaluation.refined_answers import (
    Refined,
    _Draft,
    _Refiner,
    answer_refined,
)
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.model.token_slopes import read_completion
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


@cache
def ready() -> tuple[Policy, DecodeEngine]:
    """Makes a policy and an engine once, since the engine checks itself for seconds."""
    policy, engine = vivid_policy(), DecodeEngine()
    engine.setup(policy)
    return policy, engine


def refined(
    refinement: Refinement,
    prompts: list[Prompt] = PROMPTS,
    sampling: Sampling = SAMPLING,
    seed: int = 0,
) -> list[Refined]:
    return answer_refined(*ready(), prompts, sampling, refinement, seed)


@pytest.mark.parametrize("engine", [DecodeEngine, GenerateEngine])
def test_without_steps_answers_are_the_plain_ones(engine: Callable[[], Any]) -> None:
    policy, answers = vivid_policy(), engine()
    answers.setup(policy)
    found = answer_refined(policy, answers, PROMPTS, SAMPLING, Refinement(steps=0), 0)
    plain = answers.generate(
        PROMPTS, SAMPLING, seed=0, step=EVALUATION_STEP, on_completion=lambda *_: None
    )
    assert [x.completion for x in found] == completions_of(plain)
    assert all(x.score == x.plain_score for x in found)


def test_the_objective_never_falls() -> None:
    """Continuations are random and many are worse; only better ones take a place."""
    changed = 0
    for seed in range(2):
        found = refined(BRISK, seed=seed)
        assert all(x.score >= x.plain_score for x in found)
        changed += sum(x.score > x.plain_score for x in found)
        plain = [x.completion for x in refined(Refinement(steps=0), seed=seed)]
        for own, before in zip(found, plain, strict=True):
            assert (own.completion == before) == (own.score == own.plain_score)
    assert 2 < changed < 12
    more, fewer = (
        sum(x.score for x in refined(Refinement(learning_rate=0.1, max_rollouts=most)))
        for most in (7, 1)
    )
    assert more > fewer


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_scores_are_log_likelihoods_of_the_answers(weight: float) -> None:
    """Answers are read again from their ids, at scale 1 and at scale 0."""
    (policy, engine), kept = ready(), []
    refinement = Refinement(learning_rate=0.1, reward_weight=weight)
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
    costs = [x.forward_tokens for x in whole]  # with tokens beyond the limit, as rows share a call
    assert [replace(x, forward_tokens=n) for x, n in zip(alone, costs, strict=True)] == whole
    assert all(x.forward_tokens <= n for x, n in zip(alone, costs, strict=True))
    assert refined(BRISK, seed=1) != whole


def test_what_answers_cost() -> None:
    """Each text is sampled and scored; its slopes take another pass, forwards and backwards.

    With no token below the confidence, nothing is sampled again. The reward needs the passes at
    scale 0, too, unless the arm itself is at scale 0.
    """

    def passes(**settings: Any) -> tuple[int, int]:
        found = refined(Refinement(**settings))[0]
        length = len(PROMPTS[0].token_ids) + found.completion.num_tokens
        assert found.forward_tokens % length == found.backward_tokens % length == 0
        return found.forward_tokens // length, found.backward_tokens // length

    assert passes(steps=0) == (2, 0)
    assert passes(max_confidence=1e-9) == (3, 1)
    assert passes(steps=0, reward_weight=1.0) == (3, 0)
    assert passes(max_confidence=1e-9, reward_weight=1.0) == (5, 2)
    with ready()[0].at_scale(0.0):
        assert passes(max_confidence=1e-9, reward_weight=1.0) == (3, 1)
    more = refined(BRISK)[0]
    assert more.forward_tokens > 3 * (3 + 1)


@pytest.mark.parametrize("most", [1, 7])
def test_every_token_that_is_read_is_counted(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the engine, and those of scores and slopes; tries that end at once are not sampled.

    Without ends, all continuations of a call get as many tokens as the one with the most room.
    """
    policy, engine = ready()
    sampled, read, back = [], [], []

    class Counting:
        def generate(self, prompts: list[Prompt], sampling: Sampling, **words: Any) -> Any:
            found = engine.generate(prompts, sampling, **words)
            sampled.append(sum(len(x.token_ids) for x in prompts) * sampling.group_size)
            sampled.append(int(found.completion_mask.sum()))
            return found

    def counting(policy: Policy, prompt: Any, ids: Any, with_pulls: bool) -> Any:
        read.append(len(prompt) + len(ids))
        back.append(read[-1] * with_pulls)
        return read_completion(policy, prompt, ids, with_pulls)

    where = "steer_lightning.evaluation.refined_answers.read_completion"
    monkeypatch.setattr(where, counting)
    refinement = Refinement(learning_rate=0.1, max_rollouts=most)
    for sampling in (SAMPLING, replace(SAMPLING, eos_token_ids=[])):
        for counts in (sampled, read, back):
            counts.clear()
        found = answer_refined(policy, Counting(), PROMPTS, sampling, refinement, 0)
        assert sum(x.forward_tokens for x in found) == sum(sampled) + sum(read)
        assert sum(x.backward_tokens for x in found) == sum(back)


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


def test_a_change_keeps_what_stands_before_it() -> None:
    row = GrowingRow(number=3, prompt=PROMPTS[0], ids=[40, 41, 42, 5], finished=True)
    draft = _Draft(row=row, changes=[(1, 60), (2, 5)])
    first, second = draft.changed({5}), draft.changed({5})
    assert (first.ids, first.finished, first.number) == ([40, 60], False, 3)
    assert (second.ids, second.finished) == ([40, 41, 5], True), "an end needs no continuation"
    assert (row.ids, draft.changes) == ([40, 41, 42, 5], [])


def test_changes_are_looked_for_behind_the_last_one() -> None:
    policy, _ = ready()
    refiner = _Refiner(policy, SAMPLING, Refinement(learning_rate=1.0), seed=0)
    row = GrowingRow(number=0, prompt=PROMPTS[0], ids=[40, 41, 42, 43, 44, 45], finished=False)
    every, rest = _Draft(row=row), _Draft(row=row)
    refiner.find_changes(every, first=0)
    refiner.find_changes(rest, first=3)
    assert min(every.changes)[0] < 3
    assert rest.changes == [(place, token) for place, token in every.changes if place >= 3] != []
