"""Settings that contradict each other are refused before a model is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import GRPO, RLOO, DrGRPO, MaxRL, MovingAverage
from steer_lightning.data import Arithmetic, PromptDataModule
from steer_lightning.losses import Clip, PolicyGradient, PrefixLikelihood, TruncatedImportance
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import (
    FormatReward,
    LengthReward,
    WeightedReward,
)
from steer_lightning.rollout import DecodeEngine, Sampling, VLLMEngine
from steer_lightning.steering import FullFinetune
from steer_lightning.training import checks
from steer_lightning.training.checks import (
    check_batch_size,
    check_further_prompts,
    check_staleness,
)
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.sample import DynamicSampling
from steer_lightning.training.update import OptimizerSteps
from tests.unit.training.made_up_rounds import PROMPTS

CORRECTED = PolicyGradient(correction=TruncatedImportance())


def test_a_group_of_one_needs_an_estimator_that_allows_it() -> None:
    for advantage in (RLOO(), GRPO(), DrGRPO()):
        name = type(advantage).__name__
        with pytest.raises(ConfigError, match=rf"group_size = 1.*model.advantage = {name}"):
            SteeringModule(sampling=Sampling(group_size=1), advantage=advantage)

    def reinforce(rewards: torch.Tensor) -> torch.Tensor:
        return rewards

    SteeringModule(sampling=Sampling(group_size=1), advantage=reinforce)


def test_an_estimator_that_needs_rewards_of_at_least_0() -> None:
    right = WeightedReward(reward=FormatReward())
    long = WeightedReward(reward=LengthReward(free_tokens=1, max_tokens=2), weight=0.5)
    told = r"model.rewards = \['FormatReward', 'LengthReward'\]: must be at least 0.*may be -0.5"
    with pytest.raises(ConfigError, match=told):
        SteeringModule(advantage=MaxRL(), rewards=[right, long])
    SteeringModule(advantage=RLOO(), rewards=[right, long])
    told = "model.kl_in_reward = 'on': must be null with model.advantage = MaxRL"
    with pytest.raises(ConfigError, match=told):
        SteeringModule(advantage=MaxRL(), rewards=[right], kl_in_reward=KLInReward(weight=0.1))
    SteeringModule(advantage=MaxRL(), rewards=[right])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"loss": PolicyGradient(objective=Clip())},
            r"model.loss.objective = 'Clip': needs several optimizer steps.*updates.num_passes",
        ),
        (
            {"updates": OptimizerSteps(num_passes=2)},
            r"model.updates.num_passes = 2: must be 1 with model.loss.objective = ScoreFunction",
        ),
        (
            {"updates": OptimizerSteps(num_mini_batches=2)},
            r"model.updates.num_mini_batches = 2: must be 1 with model.loss.objective",
        ),
    ],
)
def test_ratio_and_number_of_updates_must_go_together(settings, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**settings)


def test_counts_of_updates_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"model.updates.num_passes = 0"):
        OptimizerSteps(num_passes=0)
    with pytest.raises(
        ConfigError, match=r"model.updates.num_mini_batches = 3: must divide data.batch_size = 32"
    ):
        check_batch_size(32, num_processes=1, num_mini_batches=3)


SAMPLING = Sampling(group_size=2, max_new_tokens=8)

LETTERS = [WeightedReward(reward=FormatReward("[a-m]"))]
PREFIX = PrefixLikelihood(num_tokens=8)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"loss": PrefixLikelihood(num_tokens=9)},
            r"PrefixLikelihood.num_tokens = 9: must be at most model.sampling.max_new_tokens = 8",
        ),
        (
            {"loss": PrefixLikelihood(num_tokens=8, temperature=1.0)},
            r"PrefixLikelihood.temperature = 1.0: must be below model.sampling.temperature = 1.0",
        ),
        (
            {"sampling": Sampling(temperature=0.6, max_new_tokens=8)},
            r"PrefixLikelihood.temperature = 0.7: must be below model.sampling.temperature = 0.6",
        ),
        ({"rewards": LETTERS}, r"model.rewards = \['FormatReward'\]: must be null with model.loss"),
        ({"advantage": RLOO()}, r"model.advantage = 'RLOO': must be null with model.loss"),
        ({"mask_overlong": True}, r"model.mask_overlong = True: must be false with model.loss"),
        ({"kl_in_reward": KLInReward(weight=0.1)}, r"model.kl_in_reward = .*must be null"),
        ({"dynamic_sampling": DynamicSampling(max_rounds=1)}, r"model.dynamic_sampling"),
        ({"loss": PolicyGradient(), "rewards": []}, r"model.rewards = \[\]: needs at least one"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**{"sampling": SAMPLING, "loss": PREFIX, **settings})


@pytest.mark.parametrize("advantage", [MovingAverage(), lambda rewards: rewards])
def test_dynamic_sampling_needs_an_estimator_that_compares(advantage: object) -> None:
    with pytest.raises(ConfigError, match=r"model.dynamic_sampling.*model.advantage = "):
        SteeringModule(advantage=advantage, dynamic_sampling=DynamicSampling(max_rounds=1))


@pytest.mark.parametrize(
    ("max_staleness", "engine", "loss", "told"),
    [
        (2, VLLMEngine(), CORRECTED, "must be 0 or 1"),
        (1, VLLMEngine(), PolicyGradient(), "correction: steer_lightning.losses.Truncated"),
        (1, DecodeEngine(), CORRECTED, "needs an engine that samples elsewhere"),
    ],
)
def test_completions_of_the_step_before_need_an_engine_and_a_correction(
    max_staleness: int, engine: object, loss: object, told: str
) -> None:
    check_staleness(0, engine, loss)
    check_staleness(1, VLLMEngine(), CORRECTED)
    with pytest.raises(ConfigError, match=told):
        check_staleness(max_staleness, engine, loss)


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


def test_the_process_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[dict[str, Any]] = [{"data.order": [1], "seed_everything": 0}]
    monkeypatch.setattr(checks, "gather_objects", lambda own: [own, *others])
    checks.check_same_everywhere({"data.order": (1,), "seed_everything": 0})
    others.append({"data.order": [1], "seed_everything": 7})
    with pytest.raises(ConfigError) as caught:
        checks.check_same_everywhere({"data.order": (1,), "seed_everything": 0})
    assert str(caught.value) == (
        "seed_everything = 0: process 2 has 7. All processes must train the same vectors on the "
        "same data. Copy the same files to every node."
    )


def test_rollouts_from_a_quantised_copy_need_a_correction() -> None:
    chosen = Quantization(bits=4, where="rollouts")
    told = (
        r"model.quantization.where = 'rollouts': needs a loss with a correction, which "
        r"PolicyGradient has not.*model.loss.init_args.correction.*where: both"
    )
    with pytest.raises(ConfigError, match=told):
        SteeringModule(quantization=chosen)
    SteeringModule(quantization=chosen, loss=CORRECTED)
    SteeringModule(quantization=Quantization(bits=4))
    with pytest.raises(ConfigError, match="PrefixLikelihood has not"):
        SteeringModule(
            quantization=chosen, loss=PrefixLikelihood(8), sampling=Sampling(max_new_tokens=8)
        )


def test_log_probabilities_of_a_quantised_copy_are_not_those_of_the_update() -> None:
    chosen = Quantization(where="rollouts")
    told = r"model.exact = True: can't be combined with model.quantization.where = rollouts"
    with pytest.raises(ConfigError, match=told):
        SteeringModule(quantization=chosen, loss=CORRECTED, exact=True)
    SteeringModule(quantization=Quantization(), exact=True)
    told = r"model.kl_in_reward = 'on': can't be combined with model.quantization.where = rollouts"
    with pytest.raises(ConfigError, match=told):
        SteeringModule(quantization=chosen, loss=CORRECTED, kl_in_reward=KLInReward(weight=0.1))
    SteeringModule(quantization=Quantization(), kl_in_reward=KLInReward(weight=0.1))


def test_a_quantised_base_is_refused_with_what_needs_another() -> None:
    with pytest.raises(ConfigError, match=r"model.quantization.*model.engine = VLLMEngine"):
        SteeringModule(quantization=Quantization(), engine=VLLMEngine())
    with pytest.raises(ConfigError, match=r"model.steering = 'FullFinetune'.*model.quantization"):
        SteeringModule(quantization=Quantization(), steering=FullFinetune())
