"""Several optimizer steps on a batch, against PPO step by step; and steps that are skipped."""

from __future__ import annotations

import math
from dataclasses import replace

import bitsandbytes as bnb
import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.losses import Clip, Likelihood, PolicyGradient, TokenMean
from steer_lightning.model.head import token_logprobs
from steer_lightning.optim import NormClip
from steer_lightning.rollout.completions import text_lengths
from steer_lightning.testing import make_prompts
from steer_lightning.training.batch import Batch
from steer_lightning.training.update import OptimizerSteps, Updater
from steer_lightning.types import LossInputs, LossOutput, Rollouts
from tests.out_of_memory import run_out
from tests.unit.training.helpers import PROMPTS, SAMPLING


def test_a_gradient_that_is_not_finite_is_skipped_and_taken_in_by_nothing(
    module: SteeringModule,
) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    weight = module.policy.steering.weight
    for optimizer in (
        torch.optim.AdamW([weight], lr=0.1),
        bnb.optim.AdamW8bit([weight], lr=0.1, min_8bit_size=0),
    ):
        updater = updater_of(module, optimizer)
        before = weight.detach().clone()
        batch = Batch.alone(rollouts, torch.full((4, 4), float("inf")))
        update = updater.update(module.batch_gradient, batch, 0)
        assert update.skipped
        assert math.isnan(update.gradient_norm)
        assert torch.equal(weight, before)
        assert not optimizer.state[weight]
        assert module.gradient_clip.running == 0
    # a finite gradient whose norm is not, which the clip would divide by; and a loss alone
    for loss in (Times(1e30), Plus(float("inf"))):
        gradient = replace(module.batch_gradient, loss=loss)
        batch = Batch.alone(rollouts, torch.randn(4, 4))
        assert updater_of(module, optimizer).update(gradient, batch, 0).skipped
        assert torch.equal(weight, before)
        assert module.gradient_clip.running == 0
    batch = Batch.alone(rollouts, torch.randn(4, 4))
    update = updater_of(module, optimizer).update(module.batch_gradient, batch, 0)
    assert not update.skipped
    assert not torch.equal(weight, before)


def test_memory_that_runs_out_names_what_bounds_it(module: SteeringModule) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    lengths = text_lengths(rollouts)
    in_all, longest = int(lengths.sum()), int(lengths.max())
    batch = Batch.alone(rollouts, torch.randn(4, 4))
    updater = updater_of(module, torch.optim.SGD(module.policy.steering.parameters(), lr=0.1))
    for max_tokens, told in (
        (10_000, rf"= 10000: memory ran out .* {in_all} tokens.*{in_all // 2} or less"),
        (1, rf"A single text has {longest} tokens\. Set .*data\.max_prompt_tokens"),
    ):
        gradient = replace(module.batch_gradient, loss=OutOfMemory(), max_tokens=max_tokens)
        with pytest.raises(ConfigError, match=rf"model\.tokens_per_micro_batch.*{told}") as found:
            updater.update(gradient, batch, 0)
        assert "model.activation_checkpointing: true" in str(found.value)
        gradient = replace(gradient, activation_checkpointing=True)
        with pytest.raises(ConfigError) as found:
            updater.update(gradient, batch, 0)
        assert "activation_checkpointing" not in str(found.value)
    with pytest.raises(RuntimeError, match="shapes"):
        updater.update(replace(module.batch_gradient, loss=Broken()), batch, 0)


@pytest.mark.parametrize("packed", [True, False])
def test_memory_that_runs_out_without_a_gradient(module: SteeringModule, packed: bool) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    lengths = text_lengths(rollouts)
    prompts = torch.tensor([len(prompt.token_ids) for prompt in rollouts.prompts])
    completions = lengths - prompts.repeat_interleave(SAMPLING.group_size)
    num_tokens = int(lengths.sum())
    if not packed:  # 16 rows, each as wide as the widest prompt and the longest completion
        num_tokens = 16 * (int(prompts.max()) + int(completions.max()))
    gradient = replace(module.batch_gradient, packed=packed, max_tokens=10_000)
    step = gradient.plan(Batch.alone(rollouts, torch.randn(4, 4)))
    gradient.forward.token_states = run_out
    told = rf"memory ran out .* {num_tokens} tokens.*Set it to {num_tokens // 2} or less, or a "
    for read in (
        lambda: gradient.measure(step),
        lambda: gradient.logprobs_of(rollouts, of_base=True),
        lambda: gradient.read_longest(rollouts),
    ):
        with pytest.raises(ConfigError, match=rf"model\.tokens_per_micro_batch.*{told}") as found:
            read()
        assert "backward" not in str(found.value)
        assert "activation_checkpointing" not in str(found.value)  # there is nothing to recompute


class OutOfMemory(PolicyGradient):
    def __call__(self, inputs: LossInputs) -> LossOutput:
        raise torch.OutOfMemoryError("CUDA out of memory")


class Broken(PolicyGradient):
    def __call__(self, inputs: LossInputs) -> LossOutput:
        raise RuntimeError("shapes do not match")


class Times(PolicyGradient):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(loss=super().__call__(inputs).loss * self.factor)


class Plus(Times):
    def __call__(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(loss=PolicyGradient.__call__(self, inputs).loss + self.factor)


class Counted:
    """Counts the steps that it is asked for, as Lightning's wrapper of an optimizer does."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.num_steps = optimizer, 0

    def step(self) -> None:
        self.num_steps += 1
        self.optimizer.step()


def updater_of(module: SteeringModule, optimizer: torch.optim.Optimizer) -> Updater:
    """As the module makes it."""
    return Updater(
        module.gradient_clip,
        optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        counted=Counted(optimizer),
        steps=module.updates,
        seed=module.seed,
    )


def ppo_of(module: SteeringModule, **updates: int) -> Updater:
    """The clipped objective by plain gradient descent."""
    module.updates, module.gradient_clip = OptimizerSteps(**updates), NormClip(1e9)
    optimizer = torch.optim.SGD([module.policy.steering.weight], lr=5.0)
    loss = PolicyGradient(objective=Clip(low=0.01, high=0.02), aggregation=TokenMean())
    module.batch_gradient = replace(module.batch_gradient, loss=loss, max_tokens=60)
    return updater_of(module, optimizer)


def count_steps(optimizer: torch.optim.Optimizer) -> list[int]:
    """A list that grows by each step that is really taken."""
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    return steps


def token_logprobs_of(module: SteeringModule, rollouts: Rollouts, n: int) -> torch.Tensor:
    """One row by a plain pass."""
    prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
    completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
    ids = torch.tensor([prompt + completion.tolist()])
    logits = module.policy.model(ids).logits[0, len(prompt) - 1 : -1]
    return token_logprobs(logits, completion, SAMPLING.temperature)


@pytest.mark.parametrize("shape", [{"num_passes": 3}, {"num_mini_batches": 2, "num_passes": 2}])
def test_several_updates_are_ppo_step_by_step(
    module: SteeringModule, shape: dict[str, int]
) -> None:
    """Against the formula, one unpadded row at a time, with the ratio to before the first step."""
    updater = ppo_of(module, **shape)
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    batch = Batch.alone(rollouts, torch.randn(4, 4))
    weight = module.policy.steering.weight
    start = weight.detach().clone()
    mini_batches = module.updates.split(batch, module.seed, 0)
    assert sorted(torch.cat(mini_batches).tolist()) == [0, 1, 2, 3]

    rows = range(16)
    with torch.no_grad():
        old = [token_logprobs_of(module, rollouts, n) for n in rows]
    clipped = 0.0
    for _ in range(module.updates.num_passes):
        for prompts in mini_batches:
            mine = [n for n in rows if n // 4 in prompts.tolist()]
            total = torch.zeros(())
            for n in mine:
                ratio = (token_logprobs_of(module, rollouts, n) - old[n]).exp()
                advantage = batch.advantages.flatten()[n]
                gains = torch.minimum(ratio * advantage, ratio.clamp(0.99, 1.02) * advantage)
                clipped += float((gains != ratio * advantage).sum())
                total = total - gains.sum() / sum(len(old[k]) for k in mine)
            (slope,) = torch.autograd.grad(total, weight)
            weight.data -= 5.0 * slope
    expected, weight.data = weight.detach().clone(), start.clone()
    assert clipped > 0

    steps = count_steps(updater.optimizer)
    update = updater.update(module.batch_gradient, batch, 0)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)
    assert (weight - start).abs().max() > 0.01
    assert update.loss_metrics["clip_share"] > 0
    assert update.mismatch["max"] < 1e-5, "of before the first step, not of the policy as it moves"
    assert len(steps) == module.updates.total
    assert updater.counted.num_steps == 1, "Lightning counts the last one alone"


def test_mini_batches_come_from_seed_and_step_and_leave_out_what_takes_no_part() -> None:
    rollouts = make_rollouts(6)
    batch = Batch.alone(rollouts, torch.randn(6, 2))
    batch.takes_part[2] = False
    batch.takes_part[3, 0] = False
    updates = OptimizerSteps(num_mini_batches=2)
    found = updates.split(batch, seed=1, step=7)
    assert [part.tolist() for part in found] == [x.tolist() for x in updates.split(batch, 1, 7)]
    assert any(
        [part.tolist() for part in found] != [x.tolist() for x in updates.split(batch, 1, step)]
        for step in range(8, 12)
    )
    assert sorted(torch.cat(found).tolist()) == [0, 1, 3, 4, 5]
    assert [len(part) for part in found] == [3, 2]
    (every,) = OptimizerSteps().split(batch, seed=1, step=7)
    assert every.tolist() == [0, 1, 3, 4, 5], "one mini-batch keeps the order"


def make_rollouts(num_prompts: int) -> Rollouts:
    return Rollouts(
        prompts=tuple(make_prompts([str(k) for k in range(num_prompts)])),
        group_size=2,
        completion_ids=torch.ones(2 * num_prompts, 3, dtype=torch.long),
        completion_mask=torch.ones(2 * num_prompts, 3, dtype=torch.bool),
        logprobs=torch.zeros(2 * num_prompts, 3),
        finished=torch.ones(2 * num_prompts, dtype=torch.bool),
        texts=("",) * 2 * num_prompts,
    )


def test_targets_may_come_from_any_sampler(
    module: SteeringModule, caplog: pytest.LogCaptureFixture
) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    # each token was a nat less likely to the sampler
    batch = Batch.alone(replace(rollouts, logprobs=rollouts.logprobs - 1), torch.ones(4, 4))
    updater = updater_of(module, torch.optim.SGD(module.policy.steering.parameters(), lr=0.1))
    for loss, told in ((PolicyGradient(objective=Likelihood()), False), (PolicyGradient(), True)):
        updater.update(replace(module.batch_gradient, loss=loss), batch, 0)
        assert ("differ by 1 nats" in caplog.text) == told


def test_a_sampler_that_parts_from_the_trainer_is_told_once(
    module: SteeringModule, caplog: pytest.LogCaptureFixture
) -> None:
    updater = ppo_of(module)
    updater._warn_of_mismatch(torch.float32, {}, 0)
    updater._warn_of_mismatch(torch.bfloat16, {"mean": 0.04, "max": 2.0}, 0)
    for step, mean in enumerate((5e-4, 0.01, 1.0)):
        updater._warn_of_mismatch(torch.float32, {"mean": mean, "max": 2.0}, step)
    assert caplog.text.count("the engine and the trainer differ") == 1
    assert "0.01 nats" in caplog.text
    assert "correction: steer_lightning.losses.TruncatedImportance" in caplog.text
