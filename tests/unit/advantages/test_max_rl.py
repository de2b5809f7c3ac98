"""Advantages divided by the mean reward, with numbers worked by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.advantages import DrGRPO, MaxRL

NAN = float("nan")


def test_max_rl_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, NAN, NAN]])
    third = 1 / 3
    expected = torch.tensor(
        [[3.0, -1.0, -1.0, -1.0], [third, third, third, -1.0], [1.0, -1.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(MaxRL()(rewards), expected)


def test_groups_without_signal_have_advantage_0() -> None:
    rewards = torch.tensor([[0.0, 0.0], [1.0, 1.0], [NAN, NAN], [1.0, NAN], [0.1, 0.1]])
    assert MaxRL()(rewards).tolist() == [[0.0, 0.0]] * 5


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("chance", [0.1, 0.5, 0.8])
def test_the_expected_gradient_is_that_of_the_truncated_likelihood(
    size: int, chance: float
) -> None:
    """Completions are right with chance p = sigmoid(theta); the score is r - p, dp is p (1 - p)."""
    found = 0.0
    for rights in itertools.product([0.0, 1.0], repeat=size):
        likelihood = chance ** sum(rights) * (1 - chance) ** (size - sum(rights))
        rewards = torch.tensor([rights], dtype=torch.float64)
        found += likelihood * float((MaxRL()(rewards) * (rewards - chance)).mean())
    terms = sum((1 - chance) ** (k - 1) for k in range(1, size))
    assert found == pytest.approx(terms * chance * (1 - chance))


def test_two_completions_have_the_direction_of_the_mean_reward() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(MaxRL()(rewards), 2 * DrGRPO()(rewards))


def test_negative_rewards_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must not be negative with model\.advantage = MaxRL"):
        MaxRL()(torch.tensor([[1.0, -0.5]]))
