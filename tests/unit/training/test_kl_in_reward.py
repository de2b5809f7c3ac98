"""The KL to the base as a part of the reward, against plain passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.losses import PolicyGradient, k2
from steer_lightning.model.head import token_logprobs
from steer_lightning.rewards import Scores
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_policy
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.sample import gather_figures
from steer_lightning.training.step import Sampled
from tests.unit.training.made_up_rounds import PROMPTS


def test_the_kl_in_the_reward_is_of_the_sampled_tokens() -> None:
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    policy.steering.set_vectors(torch.randn(1, 32))
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=9, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(PROMPTS[:3], sampling, seed=0, step=0)
    scores = Scores(total=[None] * 6, parts={}, outcomes={})
    found = Sampled(
        **vars(gather_figures(rollouts, scores, 1.0)),
        rollouts=rollouts,
        scores=scores,
        own=torch.arange(3),
    )
    gradient = BatchGradient(policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=40)
    shaping = KLInReward(weight=0.1)
    kl = shaping.measure(gradient, found)
    squares = KLInReward(weight=0.1, estimator=k2).measure(gradient, found)
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
    # an engine of other arithmetic: its gaps are no KL
    off = replace(rollouts, logprobs=rollouts.logprobs - 0.05 * rollouts.completion_mask)
    other = replace(found, rollouts=off)
    torch.testing.assert_close(shaping.measure(gradient, other), kl, atol=0, rtol=0)
    policy.steering.set_vectors(torch.zeros(1, 32))
    assert not shaping.measure(gradient, other).any(), "the vectors are 0"


@pytest.mark.parametrize("weight", [0.0, -0.1])
def test_the_kl_in_the_reward_needs_a_weight(weight: float) -> None:
    told = r"model.kl_in_reward.weight = .*must be above 0.*model.kl_in_reward: null"
    with pytest.raises(ConfigError, match=told):
        KLInReward(weight=weight)
