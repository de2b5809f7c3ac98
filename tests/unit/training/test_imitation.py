"""Imitation that chooses nothing, or contradicts other settings, is refused."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import RLOO, BestOf
from steer_lightning.losses import (
    Likelihood,
    PolicyGradient,
    PrefixLikelihood,
    TruncatedImportance,
)
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import FormatReward, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.training.imitation import check_correction, imitates
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.sample import DynamicSampling

SAMPLING = Sampling(group_size=2, max_new_tokens=8)
LETTERS = [WeightedReward(reward=FormatReward("[a-m]"))]
IMITATION = PolicyGradient(objective=Likelihood())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"advantage": RLOO()}, r"objective = 'Likelihood': needs .* model.advantage = RLOO"),
        ({"advantage": BestOf(3)}, r"BestOf.num_best = 3: must be .*group_size = 2"),
        ({"advantage": BestOf(max_tokens=8)}, r"BestOf.max_tokens = 8: .*max_new_tokens = 8"),
        ({"advantage": BestOf(least=1.1)}, r"BestOf.least = 1.1: must be at most 1, .*rewards"),
        ({"kl_in_reward": KLInReward(weight=0.1)}, r"kl_in_reward = 'on': .*advantage = BestOf"),
        ({"length_in_reward": LengthInReward(right="FormatReward")}, r"length_in_reward.*BestOf"),
        ({"dynamic_sampling": DynamicSampling(max_rounds=1)}, r"dynamic_sampling.*BestOf"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_imitation_and_what_contradicts_it(settings: dict[str, Any], told: str) -> None:
    plain = {"sampling": SAMPLING, "loss": IMITATION, "rewards": LETTERS, "advantage": BestOf()}
    SteeringModule(**plain)
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**{**plain, **settings})


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
