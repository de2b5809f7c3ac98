"""Rounds of sampling, who takes part in the update, and the KL in the reward."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import MovingAverage
from steer_lightning.data import Arithmetic, PromptDataModule
from steer_lightning.losses import PolicyGradient, k2
from steer_lightning.model.head import token_logprobs
from steer_lightning.rewards import FormatReward, LengthReward, Scores, WeightedReward
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.checks import check_further_prompts
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.sample import DynamicSampling, no_rollouts, who_takes_part
from steer_lightning.training.step import Sampled, gather_rows
from steer_lightning.types import Prompt, Rollouts

NAN = float("nan")


def sampled(prompts: Sequence[Prompt], rewards: list[list[float]], width: int = 2) -> Sampled:
    """Two completions of each prompt; the second one is cut off."""
    num_rows = 2 * len(prompts)
    rollouts = Rollouts(
        prompts=tuple(prompts),
        group_size=2,
        completion_ids=torch.full((num_rows, width), width),
        completion_mask=torch.ones(num_rows, width, dtype=torch.bool),
        logprobs=torch.full((num_rows, width), -1.0),
        finished=torch.tensor([True, False] * len(prompts)),
        texts=tuple(f"{prompt.text}{k}" for prompt in prompts for k in range(2)),
    )
    total = [None if r != r else r for row in rewards for r in row]
    scores = Scores(total=total, parts={"r": total}, outcomes={"r": {"right": num_rows}})
    rows = gather_rows(rollouts, scores, rollout_seconds=1.0)
    return Sampled(**vars(rows), rollouts=rollouts, scores=scores, own=torch.arange(len(prompts)))


PROMPTS = make_prompts([f"p{k}" for k in range(9)])
MIXED, EQUAL = [1.0, 0.0], [1.0, 1.0]


class Source:
    """Hands out prompts, whose rewards are known beforehand."""

    def __init__(self, rewards: dict[int, list[float]], width: int = 2) -> None:
        self.rewards, self.width = rewards, width
        self.asked: list[int] = []

    def one_round(self, prompts: Sequence[Prompt]) -> Sampled:
        self.width += 1  # rounds of unequal length
        return sampled(prompts, [self.rewards[prompt.id] for prompt in prompts], self.width)

    def more(self, count: int, without: Sequence[Prompt]) -> list[Prompt]:
        self.asked.append(count)
        taken = {prompt.id for prompt in without}
        return [p for p in PROMPTS if p.id in self.rewards and p.id not in taken][:count]


def test_groups_without_signal_are_refilled_until_there_are_enough() -> None:
    source = Source({0: EQUAL, 1: MIXED, 2: [NAN, 1.0], 3: EQUAL, 4: MIXED, 5: MIXED, 6: MIXED})
    first = PROMPTS[:3]
    drawn, found = DynamicSampling(max_rounds=5).refill(
        first, source.one_round(first), source.one_round, source.more
    )
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
    source = Source(dict.fromkeys(range(9), EQUAL) | {3: MIXED})
    first = PROMPTS[:2]
    drawn, found = DynamicSampling(max_rounds=2).refill(
        first, source.one_round(first), source.one_round, source.more
    )
    assert source.asked == [2, 1]
    assert len(drawn) == 5
    counts = who_takes_part(found, num_groups=2, mask_overlong=False)[:, 0]
    assert counts.tolist() == [True, False, False, True, False]


def test_a_source_that_is_used_up_ends_the_rounds() -> None:
    source = Source({0: EQUAL, 1: EQUAL, 2: EQUAL})
    first = PROMPTS[:2]
    drawn, _ = DynamicSampling(max_rounds=9).refill(
        first, source.one_round(first), source.one_round, source.more
    )
    assert len(drawn) == 3
    assert source.asked == [2, 2]


def test_what_was_cut_off_takes_no_part_if_it_is_to_be_masked() -> None:
    found = sampled(PROMPTS[:2], [MIXED, EQUAL])
    assert who_takes_part(found, 2, mask_overlong=False).all()
    assert who_takes_part(found, 2, mask_overlong=True).tolist() == [[True, False]] * 2


def test_a_process_without_a_prompt_takes_part_in_a_round() -> None:
    nothing = no_rollouts(2)
    rows = gather_rows(nothing, Scores(total=[], parts={"r": []}, outcomes={"r": {}}), 0.5)
    assert rows.rewards.shape == rows.parts["r"].shape == rows.finished.shape == (0, 2)
    own = torch.arange(0)
    empty = Sampled(
        **vars(rows), rollouts=nothing, scores=Scores(total=[], parts={"r": []}), own=own
    )
    joined = sampled(PROMPTS[:1], [MIXED]).join(empty)
    assert joined.rewards.tolist() == [MIXED]
    assert joined.rollouts.texts == ("p00", "p01")


def test_the_kl_in_the_reward_is_of_the_sampled_tokens() -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    policy.steering.set_vectors(torch.randn(1, 32))
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=9, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(PROMPTS[:3], sampling, seed=0, step=0)
    scores = Scores(total=[None] * 6, parts={}, outcomes={})
    found = Sampled(
        **vars(gather_rows(rollouts, scores, 1.0)),
        rollouts=rollouts,
        scores=scores,
        own=torch.arange(3),
    )
    gradient = BatchGradient(loss=PolicyGradient(), temperature=1.0, max_tokens=40)
    shaping = KLInReward(weight=0.1)
    kl = shaping.measure(policy, gradient, found)
    squares = KLInReward(weight=0.1, estimator=k2).measure(policy, gradient, found)
    with policy.at_scale(0.0), torch.no_grad():
        for n in range(6):
            prompt = list(PROMPTS[n // 2].token_ids)
            tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]]
            logits = policy.model(torch.tensor([[*prompt, *tokens.tolist()]])).logits[0]
            base = token_logprobs(logits[len(prompt) - 1 : -1], tokens, 1.0)
            gaps = rollouts.logprobs[n][rollouts.completion_mask[n]] - base
            assert kl[n // 2, n % 2].item() == pytest.approx(gaps.sum().item(), abs=1e-4)
            expected = gaps.square().sum().item() / 2
            assert squares[n // 2, n % 2].item() == pytest.approx(expected, abs=1e-4)
    assert kl.abs().min() > 1e-3


# ---- what is refused


@pytest.mark.parametrize("max_rounds", [None, 0, -1])
def test_dynamic_sampling_needs_a_bound(max_rounds: int | None) -> None:
    told = r"model.dynamic_sampling.max_rounds = .*never end"
    with pytest.raises(ConfigError, match=told):
        DynamicSampling(max_rounds=max_rounds)


@pytest.mark.parametrize("weight", [0.0, -0.1])
def test_the_kl_in_the_reward_needs_a_weight(weight: float) -> None:
    told = r"model.kl_in_reward.weight = .*must be above 0.*model.kl_in_reward: null"
    with pytest.raises(ConfigError, match=told):
        KLInReward(weight=weight)


@pytest.mark.parametrize("advantage", [MovingAverage(), lambda rewards: rewards])
def test_dynamic_sampling_needs_an_estimator_that_compares(advantage: object) -> None:
    with pytest.raises(ConfigError, match=r"model.dynamic_sampling.*model.advantage = "):
        SteeringModule(advantage=advantage, dynamic_sampling=DynamicSampling(max_rounds=1))


def test_a_penalty_that_no_completion_can_get_is_refused() -> None:
    reward = LengthReward(free_tokens=64, max_tokens=80)
    told = r"LengthReward.free_tokens = 64: must be below model.sampling.max_new_tokens = 64"
    with pytest.raises(ConfigError, match=told):
        SteeringModule(
            sampling=Sampling(max_new_tokens=64),
            rewards=[WeightedReward(reward=FormatReward()), WeightedReward(reward=reward)],
        )


def test_dynamic_sampling_needs_further_prompts() -> None:
    dynamic = DynamicSampling(max_rounds=1)
    data = PromptDataModule(Arithmetic(9), batch_size=9)
    data.prompts["train"] = PROMPTS
    with pytest.raises(ConfigError, match=r"data.batch_size = 9.*model.dynamic_sampling"):
        check_further_prompts(data, dynamic)
    check_further_prompts(data, None)
    with pytest.raises(ConfigError, match=r"needs a data module with further_prompts"):
        check_further_prompts(object(), dynamic)
    data.batch_size = 8
    check_further_prompts(data, dynamic)
