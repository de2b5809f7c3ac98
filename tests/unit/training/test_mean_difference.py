"""The difference of means, worked by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.testing import tiny_policy
from steer_lightning.training.mean_difference import (
    MeanDifference,
    difference_of_means,
    in_units,
)
from tests.unit.training.test_mean_states import made_up_rollouts

NAN = float("nan")


def test_the_difference_of_means_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, NAN], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, NAN, 1.0]])
    states = torch.tensor(
        [
            *([1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [90.0, 90.0]),  # (1, 0) - (1, 1) = (0, -1)
            *([4.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, 3.0]),  # (3, 0) - (1, 2) = (2, -2)
            *([70.0, 7.0], [7.0, 70.0], [0.0, 0.0], [9.0, 9.0]),  # all right: nothing
        ]
    )
    layers = torch.stack([states, 10 * states])
    # weights 1 * 2 / 3 and 2 * 2 / 4: (2/3 (0, -1) + 1 (2, -2)) / (5/3) = (1.2, -1.6)
    expected = torch.tensor([[1.2, -1.6], [12.0, -16.0]])
    found = MeanDifference()
    found.add(layers, found.count(rewards))
    torch.testing.assert_close(found.vectors, expected)
    assert (found.num_prompts, found.num_completions, found.num_unscored) == (3, 12, 2)
    assert found.num_contrasts == 2
    assert found.mean_reward == pytest.approx(6 / 10)
    by_prompt = MeanDifference()
    for b in range(3):
        part = by_prompt.count(rewards[b : b + 1])
        rows = part.nonzero().squeeze(1)
        by_prompt.add(layers[:, 4 * b + rows], part[rows])
    torch.testing.assert_close(by_prompt.vectors, expected)
    assert vars(by_prompt).keys() == vars(found).keys()


def test_rewards_that_are_no_verdicts_need_no_threshold() -> None:
    found = MeanDifference()
    # A = (2, 0, -2): (2 h_0 - 2 h_2) / 2
    found.add(torch.tensor([[[3.0], [50.0], [1.0]]]), found.count(torch.tensor([[5.0, 3.0, 1.0]])))
    assert found.vectors.tolist() == [[2.0]]


def test_without_a_contrast_there_is_no_difference() -> None:
    found = MeanDifference()
    assert not found.count(torch.tensor([[1.0, 1.0], [NAN, 0.0]])).any()
    told = r"rewards = 'mean 0.667': none of 2 prompts .*4 completions 1 have no score.*num_prompts"
    with pytest.raises(ConfigError, match=told):
        _ = found.vectors


def test_size_one_is_that_of_a_typical_state() -> None:
    vectors = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 6.0, 0.0]])
    # norms 5 and 6 over units 1 and 3 times sqrt(4): 2.5 and 1, in the mean 1.75
    torch.testing.assert_close(in_units(vectors, torch.tensor([1.0, 3.0])), vectors / 1.75)
    with pytest.raises(ConfigError, match="a difference of 0"):
        in_units(torch.zeros(2, 4), torch.ones(2))


def test_the_difference_is_of_the_base_whatever_the_vectors_are() -> None:
    rollouts, rewards = made_up_rollouts(), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    policy = tiny_policy("llama")
    expected = difference_of_means(policy, rollouts, rewards)
    assert expected.shape == (3, 32)
    policy.steering.set_vectors(torch.randn(3, 32))
    torch.testing.assert_close(difference_of_means(policy, rollouts, rewards), expected)
    one_by_one = difference_of_means(policy, rollouts, rewards, max_tokens=1)
    torch.testing.assert_close(one_by_one, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(difference_of_means(policy, rollouts, 1 - rewards), -expected)
