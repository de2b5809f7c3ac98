"""The length of right completions in the reward, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError, SteeringModule
from steer_lightning.advantages import RLOO
from steer_lightning.losses import PrefixLikelihood
from steer_lightning.rewards import FormatReward, MathReward, WeightedReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.sample import DynamicSampling
from steer_lightning.training.step import CompletionFigures

NAN = float("nan")


def figures(scores: list[list[float]], num_tokens: list[list[int]]) -> CompletionFigures:
    """Completions with these scores of a `MathReward`."""
    lengths = torch.tensor(num_tokens)
    return CompletionFigures(
        rewards=torch.tensor(scores),
        learned_rewards=torch.tensor(scores),
        guided=torch.zeros(lengths.shape, dtype=torch.bool),
        parts={"MathReward": torch.tensor(scores, dtype=torch.float64)},
        outcomes={},
        num_tokens=lengths,
        finished=torch.ones_like(lengths, dtype=torch.bool),
        logprob_sums=-lengths.double(),
        longest=99,
        rollout_seconds=1.0,
    )


def shaping(figures: CompletionFigures, weight: float = 0.2) -> torch.Tensor:
    """The shaping where all completions take part."""
    everyone = torch.ones_like(figures.finished)
    return LengthInReward(weight=weight).shaping(figures, everyone)


def test_the_shaping_by_hand() -> None:
    """Right ones of 10, 10 and 40 tokens: mean 20, deviation 14.1, z = -0.7071 and 1.4142."""
    found = shaping(figures([[1.0, 0.0, 1.0, 1.0, NAN]], [[10, 1, 10, 40, 1]]), weight=0.4)
    short, long = (0.4 * (0.5 - 1 / (1 + math.exp(-z))) for z in (-math.sqrt(0.5), math.sqrt(2)))
    assert (short, long) == (pytest.approx(0.0679, abs=1e-4), pytest.approx(-0.1218, abs=1e-4))
    assert found[0].tolist() == pytest.approx([short, 0.0, short, long, 0.0], abs=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("scores", "num_tokens"),
    [
        ([0.0, 0.0, NAN], [1, 50, 3]),  # no right one
        ([0.0, 1.0, 0.0], [1, 50, 3]),  # a single one
        ([1.0, 1.0, 0.0], [33, 33, 3]),  # equally long ones
        ([0.9, 0.9, 0.0], [1, 50, 3]),  # almost right is not right
    ],
)
def test_groups_with_nothing_to_compare(scores: list[float], num_tokens: list[int]) -> None:
    assert shaping(figures([scores], [num_tokens])).tolist() == [[0.0] * 3]


def test_groups_are_compared_with_themselves_alone() -> None:
    both = figures([[1.0, 1.0], [1.0, 1.0]], [[10, 20], [1000, 2000]])
    one, two = shaping(both)
    assert torch.equal(one, two), "in units of the group's own deviation"
    assert one[0] == -one[1] > 0


def test_completions_that_the_update_leaves_out_are_not_compared() -> None:
    """Without the one of 99 tokens, which was cut off, 10 and 20 are one deviation from 15."""
    found = figures([[1.0, 1.0, 1.0, 0.0]], [[10, 20, 99, 99]])
    takes_part = torch.tensor([[True, True, False, False]])
    step = 0.4 * (1 / (1 + math.exp(-1)) - 0.5)
    shaped = LengthInReward(weight=0.4).shaping(found, takes_part)
    assert shaped[0].tolist() == pytest.approx([step, -step, 0.0, 0.0], abs=1e-6)
    assert shaping(found, weight=0.4)[0, 1] > 0, "a right one of 99 tokens makes 20 short"


def test_what_the_estimator_makes_of_it() -> None:
    """A wrong completion has the same advantage whatever its length; a short right one leads."""
    advantages = []
    for wrong in (1, 99):
        found = figures([[1.0, 1.0, 0.0]], [[10, 40, wrong]])
        advantages.append(RLOO()(found.rewards + shaping(found))[0])
    assert torch.equal(*advantages)
    short, long, wrong = advantages[0].tolist()
    assert short > long > wrong
    all_right = figures([[1.0, 1.0]], [[10, 40]])
    assert RLOO()(all_right.rewards).tolist() == [[0.0, 0.0]]
    shaped = RLOO()(all_right.rewards + shaping(all_right))
    assert shaped[0, 0] == -shaped[0, 1] > 0, "there is something to learn where all are right"


RIGHT = [WeightedReward(reward=MathReward(), weight=0.4)]


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.0])
def test_a_weight_out_of_range(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"model.length_in_reward.weight = .*below 1"):
        LengthInReward(weight=weight)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"rewards": [WeightedReward(reward=FormatReward())]},
            r"length_in_reward.right = 'MathReward': .*model.rewards, which has FormatReward",
        ),
        (
            {"rewards": RIGHT, "length_in_reward": LengthInReward(weight=0.5)},
            r"length_in_reward.weight = 0.5: must be at most the weight of MathReward.* 0.4",
        ),
        (
            {"dynamic_sampling": DynamicSampling(max_rounds=1)},
            r"model.dynamic_sampling = 'on': must be null with model.length_in_reward",
        ),
        (
            {"loss": PrefixLikelihood(num_tokens=8)},
            r"model.length_in_reward = .*: must be null with model.loss = PrefixLikelihood",
        ),
    ],
)
def test_settings_that_contradict_it(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SteeringModule(**{"length_in_reward": LengthInReward(), **settings})
    SteeringModule(rewards=RIGHT, length_in_reward=LengthInReward(weight=0.4))
