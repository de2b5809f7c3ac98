"""The update: micro-batches equal one batch, and the batch equals the formula."""

from __future__ import annotations

import math
from dataclasses import replace

import bitsandbytes as bnb
import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import GRPO, RLOO, DrGRPO
from steer_lightning.losses import Clip, PolicyGradient, TokenMean
from steer_lightning.model.head import token_logprobs
from steer_lightning.optim import NormClip
from steer_lightning.rewards import FormatReward, WeightedReward
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import check_engine, make_prompts, save_tiny, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.checks import check_batch_size
from steer_lightning.training.update import Updates
from steer_lightning.types import LossInputs, LossOutput, Rollouts

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])
SAMPLING = Sampling(group_size=4, max_new_tokens=8, temperature=0.8)


@pytest.fixture
def module(tmp_path, monkeypatch: pytest.MonkeyPatch) -> SteeringModule:
    module = SteeringModule(
        base=save_tiny(tmp_path, "llama"),
        sampling=SAMPLING,
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
        steering=SteeringVectors(layers=[0, 2]),
    )
    module.configure_model()
    module.policy.measure_units([prompt.token_ids for prompt in PROMPTS])
    module.policy.steering.weight.data[:, :32].normal_(std=0.1)
    module.on_fit_start()
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())  # needs no trainer
    return module


def gradient(
    module: SteeringModule, rollouts: Rollouts, advantages: torch.Tensor, **settings: object
) -> torch.Tensor:
    gradients = replace(module.batch_gradient, **settings)
    gradients.accumulate(
        module.policy, gradients.plan(module.policy, Batch.alone(rollouts, advantages))
    )
    found = module.policy.steering.weight.grad
    assert found is not None
    return found.clone()


def plain_gradient(
    module: SteeringModule, rollouts: Rollouts, advantages: torch.Tensor
) -> torch.Tensor:
    """- mean_i [ A_i * sum_t log pi(y_it) ], one unpadded row at a time.

    Straight from the formula.
    """
    weight = module.policy.steering.weight
    weight.grad = None
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        logits = module.policy.model(torch.tensor([prompt + completion.tolist()])).logits[
            :, len(prompt) - 1 : -1
        ]
        total = (
            total + advantage * token_logprobs(logits, completion[None], SAMPLING.temperature).sum()
        )
    (-total / advantages.numel()).backward()
    assert weight.grad is not None
    return weight.grad.clone()


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


def test_steps_on_the_gradient_raise_the_reward_and_leave_the_base_alone(
    module: SteeringModule,
) -> None:
    before = module.policy.base_sha256()
    optimizer = torch.optim.Adam([module.policy.steering.weight], lr=0.3)
    sampling = Sampling(group_size=16, max_new_tokens=8)
    module.sampling = sampling
    rewards = []
    for step in range(15):
        rollouts = module.engine.generate(PROMPTS, sampling, seed=0, step=step)
        reward = torch.tensor(module.reward(rollouts.completions()).total).view(4, 16)
        rewards.append(reward.mean().item())
        gradient(module, rollouts, RLOO()(reward))
        optimizer.step()
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
    assert module.policy.base_sha256() == before
    module.policy.model.lm_head.weight.data[0, 0] += 1e-3
    assert module.policy.base_sha256() != before


def test_checkpoints_hold_what_is_trained_and_no_base(module: SteeringModule) -> None:
    assert sorted(module.state_dict()) == [
        "gradient_clip.running",
        "policy.steering.unit",
        "policy.steering.units_measured",
        "policy.steering.weight",
    ]


def test_a_group_of_one_needs_an_estimator_that_allows_it() -> None:
    for advantage in (RLOO(), GRPO(), DrGRPO()):
        name = type(advantage).__name__
        with pytest.raises(ConfigError, match=rf"group_size = 1.*model.advantage = {name}"):
            SteeringModule(sampling=Sampling(group_size=1), advantage=advantage)

    def reinforce(rewards: torch.Tensor) -> torch.Tensor:
        return rewards

    SteeringModule(sampling=Sampling(group_size=1), advantage=reinforce)


def test_a_policy_is_cheap_until_it_is_loaded() -> None:
    policy = tiny_policy()
    engine = GenerateEngine()
    with pytest.raises(RuntimeError, match="setup"):
        engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    engine.setup(policy)
    assert SteeringModule().policy.model is None


def test_a_gradient_that_is_not_finite_is_skipped_and_taken_in_by_nothing(
    module: SteeringModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    weight = module.policy.steering.weight
    for optimizer in (
        torch.optim.AdamW([weight], lr=0.1),
        bnb.optim.AdamW8bit([weight], lr=0.1, min_8bit_size=0),
    ):
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        monkeypatch.setattr(module, "optimizers", lambda optimizer=optimizer, **_: optimizer)
        monkeypatch.setattr(module, "lr_schedulers", lambda scheduler=scheduler: scheduler)
        before = weight.detach().clone()
        update = module.update(Batch.alone(rollouts, torch.full((4, 4), float("inf"))))
        assert update.skipped
        assert math.isnan(update.gradient_norm)
        assert torch.equal(weight, before)
        assert not optimizer.state[weight]
        assert module.gradient_clip.running == 0
    # a finite gradient whose norm is not, which the clip would divide by; and a loss alone
    for loss in (Times(1e30), Plus(float("inf"))):
        module.batch_gradient = replace(module.batch_gradient, loss=loss)
        assert module.update(Batch.alone(rollouts, torch.randn(4, 4))).skipped
        assert torch.equal(weight, before)
        assert module.gradient_clip.running == 0
    module.batch_gradient = replace(module.batch_gradient, loss=PolicyGradient())
    update = module.update(Batch.alone(rollouts, torch.randn(4, 4)))
    assert not update.skipped
    assert not torch.equal(weight, before)


class Times(PolicyGradient):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(loss=super().__call__(inputs).loss * self.factor)


class Plus(Times):
    def __call__(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(loss=PolicyGradient.__call__(self, inputs).loss + self.factor)


def test_a_loss_may_ask_for_all_rows_and_reports_its_own_metrics(module: SteeringModule) -> None:
    class Seen:
        def __init__(self, needs_all_rows: bool) -> None:
            self.needs_all_rows = needs_all_rows

        def __call__(self, inputs: LossInputs) -> LossOutput:
            assert inputs.num_rows == 16
            assert inputs.num_tokens == int(rollouts.num_tokens.sum())
            gap = (inputs.logprobs - inputs.sampling_logprobs)[inputs.mask].abs().max()
            assert gap < 1e-5, "on policy the sampler's log-probabilities are the trainer's"
            loss = (inputs.logprobs * inputs.mask).sum() / inputs.num_rows
            return LossOutput(loss=loss, metrics={"rows": torch.tensor(len(inputs.advantages))})

    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.zeros(4, 4)
    advantages[0] = 1.0
    for needs_all_rows, expected in ((False, 4), (True, 16)):
        gradients = replace(module.batch_gradient, loss=Seen(needs_all_rows), max_tokens=60)
        step = gradients.plan(module.policy, Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(module.policy, step)
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


# ---- several updates of a batch


def set_up_updates(module: SteeringModule, monkeypatch: pytest.MonkeyPatch, **updates: int) -> None:
    """As a trainer would, with plain gradient descent."""
    optimizer = torch.optim.SGD([module.policy.steering.weight], lr=5.0)
    counted: list[bool] = []

    def optimizers(use_pl_optimizer: bool = True) -> torch.optim.Optimizer:
        counted.append(use_pl_optimizer)
        return optimizer

    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    monkeypatch.setattr(module, "optimizers", optimizers)
    monkeypatch.setattr(module, "lr_schedulers", lambda: scheduler)
    monkeypatch.setattr(module, "counted", counted, raising=False)
    module.updates = Updates(**updates)
    module.gradient_clip = NormClip(1e9)
    loss = PolicyGradient(objective=Clip(low=0.01, high=0.02), aggregation=TokenMean())
    module.batch_gradient = replace(module.batch_gradient, loss=loss, max_tokens=60)


def token_logprobs_of(module: SteeringModule, rollouts: Rollouts, n: int) -> torch.Tensor:
    """One row by a plain pass."""
    prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
    completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
    ids = torch.tensor([prompt + completion.tolist()])
    logits = module.policy.model(ids).logits[0, len(prompt) - 1 : -1]
    return token_logprobs(logits, completion, SAMPLING.temperature)


@pytest.mark.parametrize("shape", [{"num_passes": 3}, {"num_mini_batches": 2, "num_passes": 2}])
def test_several_updates_are_ppo_step_by_step(
    module: SteeringModule, monkeypatch: pytest.MonkeyPatch, shape: dict[str, int]
) -> None:
    """Against the formula, one unpadded row at a time, with the ratio to before the first step."""
    set_up_updates(module, monkeypatch, **shape)
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

    update = module.update(batch)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)
    assert (weight - start).abs().max() > 0.01
    assert update.loss_metrics["clip_share"] > 0
    assert update.mismatch["max"] < 1e-5, "of before the first step, not of the policy as it moves"
    num_steps = module.updates.num_steps
    # the first look at the learning rate, then the steps: Lightning counts the last one alone
    assert module.counted == [True, *[False] * (num_steps - 1), True]


def test_mini_batches_come_from_seed_and_step_and_leave_out_what_takes_no_part() -> None:
    rollouts = make_rollouts(6)
    batch = Batch.alone(rollouts, torch.randn(6, 2))
    batch.takes_part[2] = False
    batch.takes_part[3, 0] = False
    updates = Updates(num_mini_batches=2)
    found = updates.split(batch, seed=1, step=7)
    assert [part.tolist() for part in found] == [x.tolist() for x in updates.split(batch, 1, 7)]
    assert any(
        [part.tolist() for part in found] != [x.tolist() for x in updates.split(batch, 1, step)]
        for step in range(8, 12)
    )
    assert sorted(torch.cat(found).tolist()) == [0, 1, 3, 4, 5]
    assert [len(part) for part in found] == [3, 2]
    (every,) = Updates().split(batch, seed=1, step=7)
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


def test_rows_that_take_no_part_are_as_if_they_had_not_been_sampled(module: SteeringModule) -> None:
    rollouts = module.engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    advantages = torch.randn(4, 4)
    batch = Batch.alone(rollouts, advantages)
    batch.takes_part[1] = False
    batch.takes_part[2, 0] = False
    step = module.batch_gradient.plan(module.policy, batch)
    kept = batch.takes_part.flatten()
    assert step.num_rows == 11
    assert step.num_tokens == int(rollouts.num_tokens[kept].sum())
    module.batch_gradient.accumulate(module.policy, step)
    found = module.policy.steering.weight.grad
    expected = plain_gradient(module, rollouts, advantages * batch.takes_part) * 16 / 11
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"loss": PolicyGradient(objective=Clip())},
            r"model.loss.objective = 'Clip': needs several updates.*model.updates.num_passes",
        ),
        (
            {"updates": Updates(num_passes=2)},
            r"model.updates.num_passes = 2: must be 1 with model.loss.objective = ScoreFunction",
        ),
        (
            {"updates": Updates(num_mini_batches=2)},
            r"model.updates.num_mini_batches = 2: must be 1 with model.loss.objective",
        ),
    ],
)
def test_ratio_and_number_of_updates_must_go_together(settings, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**settings)


def test_counts_of_updates_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"model.updates.num_passes = 0"):
        Updates(num_passes=0)
    with pytest.raises(
        ConfigError, match=r"model.updates.num_mini_batches = 3: must divide data.batch_size = 32"
    ):
        check_batch_size(32, num_processes=1, num_mini_batches=3)
