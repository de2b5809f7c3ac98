"""Imitation that chooses nothing, or contradicts other settings, is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import (
    RLOO,
    BestOf,
    MaxRL,
    MovingAverage,
    Reinforce,
    ReinforcePlusPlus,
)
from steer_lightning.losses import (
    Likelihood,
    PolicyGradient,
    PrefixLikelihood,
    TruncatedImportance,
)
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import FormatReward, LengthReward, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.training.imitation import check_correction, imitates
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.sample import DynamicSampling

SAMPLING = Sampling(group_size=2, max_new_tokens=8)
LETTERS = [WeightedReward(reward=FormatReward("[a-m]"))]
LONG = WeightedReward(reward=LengthReward(4, 8), weight=0.5)
IMITATION = PolicyGradient(objective=Likelihood())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"advantage": RLOO()}, r"objective = 'Likelihood': needs .* model.advantage = RLOO"),
        ({"advantage": MovingAverage()}, r"'Likelihood': needs .* model.advantage = MovingAverage"),
        ({"advantage": ReinforcePlusPlus()}, r"'Likelihood': needs .*advantage = ReinforcePlusPl"),
        ({"advantage": torch.ones_like}, r"'Likelihood': needs .* model.advantage = ones_like"),
        (
            {"advantage": Reinforce(), "rewards": [*LETTERS, LONG]},
            r"rewards = .*at least 0 in sum with .*Likelihood and .*Reinforce, but may be -0.5",
        ),
        (
            {"advantage": Reinforce(), "kl_in_reward": KLInReward(weight=0.1)},
            r"kl_in_reward = 'on': must be null with .*Likelihood and model.advantage = Reinforce",
        ),
        ({"advantage": BestOf(3)}, r"BestOf.num_best = 3: must be .*group_size = 2"),
        ({"advantage": BestOf(max_tokens=8)}, r"BestOf.max_tokens = 8: .*max_new_tokens = 8"),
        ({"advantage": BestOf(least=1.1)}, r"BestOf.least = 1.1: must be at most 1, .*rewards"),
        ({"kl_in_reward": KLInReward(weight=0.1)}, r"kl_in_reward = 'on': .*advantage = BestOf"),
        ({"mask_overlong": True}, r"mask_overlong = True: .*advantage = BestOf.*max_tokens: 7,"),
        ({"length_in_reward": LengthInReward(right="FormatReward")}, r"length_in_reward.*BestOf"),
        (
            {"dynamic_sampling": DynamicSampling(max_rounds=1)},
            r"dynamic_sampling.*BestOf.*: null, or, with an objective other than Likelihood, set",
        ),
        (
            {"advantage": MaxRL(), "rewards": [*LETTERS, LONG]},
            r"'Likelihood': needs .* model.advantage = MaxRL .*Set model.advantage: .*BestOf",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_imitation_and_what_contradicts_it(settings: dict[str, Any], told: str) -> None:
    plain = {"sampling": SAMPLING, "loss": IMITATION, "rewards": LETTERS, "advantage": BestOf()}
    SteeringModule(**plain)
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**{**plain, **settings})


def test_weights_that_are_never_negative_may_be_imitated() -> None:
    def passing(rewards: torch.Tensor) -> torch.Tensor:
        return (rewards > 0.5).float()

    passing.non_negative_from = 0  # type: ignore[attr-defined]  # as the error message advises
    for advantage in (Reinforce(), passing):
        module = SteeringModule(
            sampling=SAMPLING, loss=IMITATION, advantage=advantage, rewards=LETTERS
        )
        assert module.reward.bounds == (0, 1)
    penalised = SteeringModule(
        sampling=SAMPLING, loss=IMITATION, advantage=BestOf(least=0.5), rewards=[*LETTERS, LONG]
    )
    assert penalised.reward.bounds == (-0.5, 1), "a choice never gives less than 0"


def test_targets_need_no_importance_weights() -> None:
    copy = Quantization(where="rollouts")
    plain = {"sampling": SAMPLING, "rewards": LETTERS, "quantization": copy}
    SteeringModule(**plain, loss=IMITATION, advantage=BestOf())
    with pytest.raises(ConfigError, match=r"where = 'rollouts': needs a loss with a correction"):
        SteeringModule(**plain, loss=PolicyGradient())
    assert imitates(IMITATION)
    assert not any(map(imitates, (PolicyGradient(), PrefixLikelihood(8), lambda inputs: None)))


@pytest.mark.parametrize(
    ("loss", "fix"),
    [
        (PolicyGradient(), "Set model.loss.init_args.correction: steer_.*Importance, or a.b: both"),
        (PrefixLikelihood(8), r"\. Set a.b: both\.$"),  # it has no such setting
        (lambda inputs: None, r"\. Set a.b: both\.$"),
    ],
)
def test_the_remedy_is_a_setting_that_the_loss_has(loss: Any, fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"a.b = 1: needs .* has not\. Because.*{fix}"):
        check_correction(loss, ("a.b", 1), why="Because", otherwise="a.b: both")
    for fine in (IMITATION, PolicyGradient(correction=TruncatedImportance())):
        check_correction(fine, ("a.b", 1), why="Because", otherwise="a.b: both")
