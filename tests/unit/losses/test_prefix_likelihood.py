"""The likelihood of the base's first tokens: by hand, and against a plain pass."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.losses import PrefixLikelihood
from steer_lightning.model.head import token_logprobs
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import make_prompts, save_tiny
from steer_lightning.training.batch import Batch
from steer_lightning.types import LossInputs

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt"])
SAMPLING = Sampling(group_size=2, max_new_tokens=8)


def test_the_loss_and_its_gradient_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, -8.0, -8.0]], requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        sampling_logprobs=torch.zeros(2, 3),
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        advantages=torch.tensor([0.0, 7.0]),  # not looked at
        num_rows=4,  # of all micro-batches
        num_tokens=9,
    )
    loss = PrefixLikelihood(num_tokens=2)(inputs).loss
    assert loss.item() == (1.0 + 2.0 + 0.5) / 4
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.25, -0.25, 0.0], [-0.25, 0.0, 0.0]]


@pytest.fixture
def module(tmp_path) -> SteeringModule:
    module = SteeringModule(
        base=save_tiny(tmp_path, "llama"),
        sampling=SAMPLING,
        loss=PrefixLikelihood(num_tokens=3, temperature=0.05),
        steering=SteeringVectors(layers=[0, 2]),
    )
    module.configure_model()
    module.policy.measure_units([prompt.token_ids for prompt in PROMPTS])
    module.on_fit_start()
    return module


def test_samples_are_the_bases_and_the_gradient_is_of_the_steered_model(
    module: SteeringModule,
) -> None:
    before = module.sampler.sample(PROMPTS, 0)
    sharper = Sampling(group_size=2, max_new_tokens=3, temperature=0.05)
    plain = module.engine.generate(PROMPTS, sharper, seed=0, step=0)
    assert torch.equal(before.rollouts.completion_ids, plain.completion_ids)
    policy = module.policy
    policy.steering.set_vectors(torch.randn(2, 32))
    sampled = module.sampler.sample(PROMPTS, 0)
    assert sampled.rollouts.texts == before.rollouts.texts, "the vectors are off"
    steered = module.engine.generate(PROMPTS, sharper, seed=0, step=0)
    assert steered.texts != sampled.rollouts.texts
    assert sampled.scores.total == [None] * 6
    assert bool(sampled.rewards.isnan().all())
    assert sampled.parts == sampled.outcomes == {}

    advantages = module.advantage(sampled.rewards)
    assert advantages.tolist() == [[1.0, 1.0]] * 3
    gradient = module.batch_gradient
    batch = Batch.alone(sampled.rollouts, advantages)
    totals = gradient.accumulate(gradient.plan(batch))
    found = policy.steering.weight.grad.clone()
    policy.steering.zero_grad()
    total = torch.zeros(())
    for n in range(6):
        prompt = list(PROMPTS[n // 2].token_ids)
        tokens = sampled.rollouts.completion_ids[n][sampled.rollouts.completion_mask[n]]
        logits = policy.model(torch.tensor([[*prompt, *tokens.tolist()]])).logits[0]
        total = total - token_logprobs(logits[len(prompt) - 1 : -1], tokens, 1.0).sum() / 6
    total.backward()
    assert totals.loss == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(found, policy.steering.weight.grad, atol=1e-5, rtol=1e-4)


def test_steps_make_what_the_base_begins_with_likelier(module: SteeringModule) -> None:
    policy, gradient = module.policy, module.batch_gradient
    optimizer = torch.optim.AdamW(policy.steering.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        sampled = module.sampler.sample(PROMPTS, 0)
        batch = Batch.alone(sampled.rollouts, module.advantage(sampled.rewards))
        losses.append(gradient.accumulate(gradient.plan(batch)).loss)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1  # logits of so small a model do not reach far


def test_a_narrower_nucleus_is_sharper_too() -> None:
    loss = PrefixLikelihood(num_tokens=4, temperature=1.0, top_p=0.5)
    found = loss.base_sampling(SAMPLING)
    assert (found.top_p, found.temperature, found.max_new_tokens) == (0.5, 1.0, 4)
    assert found.group_size == 2


@pytest.mark.parametrize(
    ("key", "value"), [("num_tokens", 0), ("temperature", -1.0), ("top_p", 0.0)]
)
def test_values_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"PrefixLikelihood.{key} = "):
        PrefixLikelihood(**{"num_tokens": 4, key: value})
