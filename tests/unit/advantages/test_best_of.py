"""The choice of the best right completions, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.advantages import BestOf

NAN = float("nan")


def chosen(choice: BestOf, rewards: list[float], lengths: list[int], sums: list[float]) -> Any:
    found = choice(
        torch.tensor([rewards]),
        num_tokens=torch.tensor([lengths]),
        logprob_sums=torch.tensor([sums], dtype=torch.float64),
    )
    assert found.dtype == torch.float32
    return found[0].tolist()


FOUR = {"rewards": [1.0, 0.0, 1.0, 1.0], "lengths": [9, 2, 7, 8], "sums": [-1.0, -1.0, -7.0, -2.0]}


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, [0, 0, 4, 0]),  # the shortest right one
        ({"num_best": 2}, [0, 0, 2, 2]),
        ({"num_best": 4}, [4 / 3, 0, 4 / 3, 4 / 3]),  # only three are right
        ({"min_logprob": -0.99}, [0, 0, 0, 4]),  # -7 / 7 tokens is below
        ({"min_logprob": -1.0}, [0, 0, 4, 0]),
        ({"max_tokens": 7, "num_best": 2}, [0, 0, 4, 0]),
        ({"max_tokens": 6}, [0, 0, 0, 0]),
        ({"least": 1.5}, [0, 0, 0, 0]),
    ],
)
def test_weights_by_hand(settings: dict[str, Any], weights: list[float]) -> None:
    assert chosen(BestOf(**settings), **FOUR) == pytest.approx(weights)


def test_the_larger_reward_comes_before_the_shorter_completion_and_then_the_earlier_one() -> None:
    rewards, lengths = [1.0, 1.5, 1.5, 1.5, NAN], [1, 6, 5, 5, 1]
    for num_best, weights in ((1, [0, 0, 5, 0, 0]), (2, [0, 0, 2.5, 2.5, 0])):
        assert chosen(BestOf(num_best), rewards, lengths, [-1.0] * 5) == weights
    assert chosen(BestOf(3), rewards, lengths, [-1.0] * 5) == pytest.approx([0, *[5 / 3] * 3, 0])


def test_prompts_count_alike_and_those_without_a_right_completion_not_at_all() -> None:
    rewards = torch.tensor([[1.0, 1.0, 0.0], [0.0, NAN, 0.0], [NAN, NAN, NAN], [0.0, 0.0, 1.0]])
    same = {"num_tokens": torch.ones(4, 3).long(), "logprob_sums": -torch.ones(4, 3).double()}
    found = BestOf(num_best=3)(rewards, **same)
    assert found.sum(1).tolist() == [3, 0, 0, 3]
    assert found[0].tolist() == [1.5, 1.5, 0]


def test_lengths_and_likelihoods_are_never_made_up() -> None:
    with pytest.raises(TypeError, match="needs num_tokens and logprob_sums"):
        BestOf()(torch.ones(1, 2))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_best": 0}, r"BestOf\.num_best = 0: must be at least 1"),
        ({"least": 0.0}, r"BestOf\.least = 0\.0: must be above 0"),
        ({"max_tokens": 0}, r"BestOf\.max_tokens = 0"),
        ({"min_logprob": 0.0}, r"BestOf\.min_logprob = 0\.0: must be below 0"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BestOf(**settings)
