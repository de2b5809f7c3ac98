"""Rounds of sampling, and who takes part in the update."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.advantages import BestOf
from steer_lightning.model.sharding import Sharding
from steer_lightning.rewards import RewardPool, RewardSum, Scores, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.engine import OnCompletion
from steer_lightning.training.sample import (
    DynamicSampling,
    Sampler,
    advantages_of,
    gather_figures,
    joined,
    no_rollouts,
    who_takes_part,
)
from steer_lightning.training.step import Sampled
from steer_lightning.types import Completion, Prompt
from tests.unit.training.made_up_rounds import EQUAL, MIXED, NAN, PROMPTS, sampled


class Rounds(Sampler):
    """A sampler whose rewards are known beforehand; it is its own data module, too."""

    learns_from_rewards = True

    def __init__(self, rewards: dict[int, list[float]], max_rounds: int) -> None:
        super().__init__(
            SimpleNamespace(at_scale=nullcontext, quantization=None),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Sampling(group_size=2),
            dynamic_sampling=DynamicSampling(max_rounds=max_rounds),
        )
        self.rewards, self.width = rewards, 2
        self.asked: list[int] = []

    def _round(self, prompts: Sequence[Prompt], step: int) -> Sampled:
        self.width += 1  # rounds of unequal length
        return sampled(prompts, [self.rewards[prompt.id] for prompt in prompts], self.width)

    def further_prompts(self, count: int, without: Sequence[Prompt]) -> list[Prompt]:
        self.asked.append(count)
        taken = {prompt.id for prompt in without}
        return [p for p in PROMPTS if p.id in self.rewards and p.id not in taken][:count]

    def record(self, prompts: Sequence[Prompt], rewards: torch.Tensor) -> None:
        self.drawn, self.told = list(prompts), rewards


def test_groups_without_signal_are_refilled_until_there_are_enough() -> None:
    rewards = {0: EQUAL, 1: MIXED, 2: [NAN, 1.0], 3: EQUAL, 4: MIXED, 5: MIXED, 6: MIXED}
    source = Rounds(rewards, max_rounds=5)
    found = source.sample(PROMPTS[:3], 0, source)
    drawn = source.drawn
    torch.testing.assert_close(source.told, found.rewards, equal_nan=True)
    assert source.asked == [2, 1], "as many as are missing, and no more"
    assert [prompt.id for prompt in drawn] == [0, 1, 2, 3, 4, 5]
    assert found.rewards[[0, 1, 3, 4, 5]].tolist() == [EQUAL, MIXED, EQUAL, MIXED, MIXED]
    assert found.own.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.rollouts.prompts == tuple(drawn)
    assert found.rollouts.texts == tuple(f"p{k}{n}" for k in range(6) for n in range(2))
    assert found.scores.total[-2:] == [1.0, 0.0]
    assert found.outcomes == {"r": {"right": 12}}
    assert found.rollout_seconds == 3.0
    assert found.rollouts.completion_mask.sum(1).tolist() == [3] * 6 + [4] * 4 + [5] * 2
    assert found.rollouts.completion_ids[0].tolist() == [3, 3, 3, 0, 0]
    counts = who_takes_part(found, num_groups=3, mask_overlong=False)
    assert counts.tolist() == [[k in (1, 4, 5)] * 2 for k in range(6)]


def test_the_bound_holds_and_others_fill_up_the_update() -> None:
    source = Rounds(dict.fromkeys(range(9), EQUAL) | {3: MIXED}, max_rounds=2)
    found = source.sample(PROMPTS[:2], 0, source)
    drawn = source.drawn
    assert source.asked == [2, 1]
    assert len(drawn) == 5
    counts = who_takes_part(found, num_groups=2, mask_overlong=False)[:, 0]
    assert counts.tolist() == [True, False, False, True, False]


def test_a_source_that_is_used_up_ends_the_rounds() -> None:
    source = Rounds({0: EQUAL, 1: EQUAL, 2: EQUAL}, max_rounds=9)
    source.sample(PROMPTS[:2], 0, source)
    assert len(source.drawn) == 3
    assert source.asked == [2, 2]


def test_what_was_cut_off_takes_no_part_if_it_is_to_be_masked() -> None:
    found = sampled(PROMPTS[:2], [MIXED, EQUAL])
    assert who_takes_part(found, 2, mask_overlong=False).all()
    assert who_takes_part(found, 2, mask_overlong=True).tolist() == [[True, False]] * 2


def test_what_could_not_be_scored_takes_no_part_where_rewards_exist() -> None:
    found = sampled(PROMPTS[:3], [[NAN, 1.0], [NAN, NAN], MIXED])
    counts = who_takes_part(found, 3, mask_overlong=False)
    assert counts.tolist() == [[False, True], [False, False], [True, True]]
    counts = who_takes_part(found, 3, mask_overlong=True)
    assert counts.tolist() == [[False, False], [False, False], [True, False]]
    without = replace(found, parts={})  # a loss that learns from samples of the base
    assert who_takes_part(without, 3, mask_overlong=False).all()


@pytest.mark.parametrize("max_rounds", [None, 0, -1])
def test_dynamic_sampling_needs_a_bound(max_rounds: int | None) -> None:
    told = r"model.dynamic_sampling.max_rounds = .*never end"
    with pytest.raises(ConfigError, match=told):
        DynamicSampling(max_rounds=max_rounds)


def brevity(completions: Sequence[Completion]) -> list[float]:
    return [-len(completion.text) for completion in completions]


def test_a_rollout_that_fails_leaves_no_open_tasks() -> None:
    pool = RewardPool()
    pool.start = pool._send = lambda *_: None  # type: ignore[method-assign, assignment]
    answered = Completion(text="", question="", answer="", num_tokens=1, finished=True)
    opened: list[int] = []

    class Fails:
        def generate(self, *_: object, on_completion: OnCompletion, **__: object) -> None:
            on_completion(0, answered)
            opened.extend(pool._open)
            raise FloatingPointError("logits")

    sampler = Sampler(
        SimpleNamespace(  # type: ignore[arg-type]
            at_scale=lambda scale: nullcontext(), sharding=Sharding(), model=None, quantization=None
        ),
        Fails(),  # type: ignore[arg-type]
        RewardSum([WeightedReward(reward=brevity)], pool),
        Sampling(group_size=2),
    )
    with pytest.raises(FloatingPointError):
        sampler.sample(PROMPTS[:1], 0)
    assert opened == [1]
    assert not pool._open


def test_a_process_without_a_prompt_takes_part_in_a_round() -> None:
    nothing = no_rollouts(2)
    rows = gather_figures(nothing, Scores(total=[], parts={"r": []}, outcomes={"r": {}}), 0.5)
    assert rows.rewards.shape == rows.parts["r"].shape == rows.finished.shape == (0, 2)
    own = torch.arange(0)
    empty = Sampled(
        **vars(rows), rollouts=nothing, scores=Scores(total=[], parts={"r": []}), own=own
    )
    both = joined(sampled(PROMPTS[:1], [MIXED]), empty)
    assert both.rewards.tolist() == [MIXED]
    assert both.rollouts.texts == ("p00", "p01")


def test_a_data_module_that_does_not_learn_is_told_no_rewards() -> None:
    source = Rounds({0: MIXED}, max_rounds=1)
    source.learns_from_rewards = False
    source.sample(PROMPTS[:1], 0, source)
    assert not hasattr(source, "told")


def test_an_estimator_reads_lengths_and_likelihoods_if_it_asks_for_them() -> None:
    """Both completions have 2 tokens, of -1 nat each."""
    found = sampled(PROMPTS[:1], [EQUAL])
    assert advantages_of(BestOf(), found.rewards, found).tolist() == [[2, 0]], "the first of equals"
    assert advantages_of(BestOf(max_tokens=1), found.rewards, found).tolist() == [[0, 0]]
    assert advantages_of(BestOf(min_logprob=-0.9), found.rewards, found).tolist() == [[0, 0]]
    assert advantages_of(BestOf(2, min_logprob=-1.1), found.rewards, found).tolist() == [[1, 1]]
    assert advantages_of(torch.ones_like, found.rewards, found).tolist() == [[1, 1]]
