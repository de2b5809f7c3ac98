"""Micro-batches equal one batch, and the batch equals the formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from steer_lightning import SteeringModule
from steer_lightning.losses import EntropyBonus, KLToBase, PolicyGradient, k2
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import check_engine, save_tiny, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient, Totals
from steer_lightning.types import LossInputs, LossOutput
from tests.unit.training.helpers import PROMPTS, SAMPLING, gradient, plain_gradient


def test_micro_batches_equal_one_batch_and_the_formula(module: SteeringModule) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.randn(4, 4)
    advantages[1] = 0.0  # a group without signal takes no part
    expected = plain_gradient(module, rollouts, advantages)
    assert expected.abs().max() > 0.01
    for budget in (1, 60, 10_000):
        torch.testing.assert_close(
            gradient(module, rollouts, advantages, max_tokens=budget),
            expected,
            rtol=1e-4,
            atol=1e-6,
        )
    checkpointed = {"max_tokens": 60, "activation_checkpointing": True}
    torch.testing.assert_close(
        gradient(module, rollouts, advantages, **checkpointed), expected, rtol=1e-4, atol=1e-6
    )


def test_no_signal_is_a_zero_gradient(module: SteeringModule) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert (gradient(module, rollouts, torch.zeros(4, 4)) == 0).all()


def test_a_loss_may_ask_for_all_rows_and_reports_its_own_metrics(module: SteeringModule) -> None:
    class Seen:
        def __init__(self, needs_all_rows: bool) -> None:
            self.needs_all_rows = needs_all_rows

        def __call__(self, inputs: LossInputs) -> LossOutput:
            assert inputs.num_rows == 16
            assert inputs.num_tokens == int(rollouts.completion_mask.sum(1).sum())
            gap = (inputs.logprobs - inputs.sampling_logprobs)[inputs.mask].abs().max()
            assert gap < 1e-5, "on policy the sampler's log-probabilities are the trainer's"
            loss = (inputs.logprobs * inputs.mask).sum() / inputs.num_rows
            return LossOutput(loss=loss, metrics={"rows": torch.tensor(len(inputs.advantages))})

    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.zeros(4, 4)
    advantages[0] = 1.0
    for needs_all_rows, expected in ((False, 4), (True, 16)):
        gradients = replace(module.batch_gradient, loss=Seen(needs_all_rows), max_tokens=60)
        step = gradients.plan(Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(step)
        assert totals.metrics["rows"] == expected
        rows = slice(0, expected)
        assert totals.loss == pytest.approx(float(rollouts.logprobs[rows].sum()) / 16, rel=1e-4)


def test_a_bfloat16_base_learns_in_float32(tmp_path) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "qwen2"), dtype="bfloat16", sampling=SAMPLING)
    module.configure_model()
    assert module.policy.model.dtype == torch.bfloat16
    vectors = module.policy.steering
    assert vectors.weight.dtype == torch.float32
    module.policy.measure_units([prompt.token_ids for prompt in PROMPTS])
    module.on_fit_start()
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.randn(4, 4)
    rough = gradient(module, rollouts, advantages)
    assert rough.dtype == torch.float32
    module.policy.model.float()
    exact = gradient(module, rollouts, advantages)
    cosine = torch.cosine_similarity(rough.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_samples_and_learns_as_the_cpu_does(tmp_path, dtype) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "qwen2"), dtype=dtype, sampling=SAMPLING)
    module.configure_model()
    module.policy.measure_units([prompt.token_ids for prompt in PROMPTS])
    module.on_fit_start()
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.randn(4, 4)
    expected = gradient(module, rollouts, advantages)
    module.to("cuda")
    check_engine(module.engine, module.policy, PROMPTS)
    found = gradient(module, rollouts, advantages).cpu()
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.99
    if dtype == "float32":
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        again = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
        assert torch.equal(again.completion_ids.cpu(), rollouts.completion_ids)


def test_rows_that_take_no_part_are_as_if_they_had_not_been_sampled(module: SteeringModule) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.randn(4, 4)
    batch = Batch.alone(rollouts, advantages)
    batch.takes_part[1] = False
    batch.takes_part[2, 0] = False
    step = module.batch_gradient.plan(batch)
    kept = batch.takes_part.flatten()
    assert step.num_rows == 11
    assert step.num_tokens == int(rollouts.completion_mask.sum(1)[kept].sum())
    module.batch_gradient.accumulate(step)
    found = module.policy.steering.weight.grad
    expected = plain_gradient(module, rollouts, advantages * batch.takes_part) * 16 / 11
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_a_loss_gets_the_bases_log_probabilities_and_the_entropy(packed: bool) -> None:
    """Against plain passes over one unpadded row at a time."""
    policy = tiny_policy("llama", SteeringVectors(layers=[1]))
    policy.steering.set_vectors(torch.randn(1, 32) * 0.3)
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=9, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    loss = PolicyGradient(terms=[KLToBase(0.5, estimator=k2), EntropyBonus(0.2)])
    gradients = BatchGradient(
        policy=policy, loss=loss, temperature=0.8, max_tokens=60, packed=packed
    )
    step = gradients.plan(Batch.alone(rollouts, torch.zeros(4, 2)))
    totals = gradients.accumulate(step)
    weight = policy.steering.weight
    found, weight.grad = weight.grad, None

    total = torch.zeros(())
    for n in range(8):
        prompt = list(rollouts.prompts[n // 2].token_ids)
        tokens = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        ids = torch.tensor([[*prompt, *tokens.tolist()]])
        logits = policy.model(ids).logits[0, len(prompt) - 1 : -1] / 0.8
        with policy.at_scale(0.0), torch.no_grad():
            base = policy.model(ids).logits[0, len(prompt) - 1 : -1] / 0.8
        gap = (logits.log_softmax(-1) - base.log_softmax(-1))[range(len(tokens)), tokens]
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        total = total + (0.5 * gap.square() / 2 - 0.2 * entropy).sum() / 8
    total.backward()
    assert totals.loss == pytest.approx(total.item(), rel=1e-5)
    assert gap.abs().max() > 1e-3
    torch.testing.assert_close(found, weight.grad, rtol=1e-4, atol=1e-6)


def test_ratios_are_means_over_guided_tokens() -> None:
    totals, other = Totals(), Totals()
    logprobs = torch.zeros(2, 2)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=torch.tensor([[0.0, 0.5], [math.log(2), 9.0]]),
        sampling_logprobs=logprobs,
        mask=torch.tensor([[True, True], [True, False]]),
        advantages=torch.ones(2),
        num_rows=2,
        num_tokens=3,
        guided=torch.tensor([False, True]),
    )
    totals.add(inputs, LossOutput(loss=torch.zeros(())))
    other.join(totals)
    assert other.guidance == pytest.approx({"ratio": 0.5, "kl": math.log(2)})
    assert other.mismatch == {"mean": 0.25, "max": 0.5}, "of the row without hint"
    assert Totals().guidance == {}
