"""Group-relative advantages, with numbers worked by hand."""

from __future__ import annotations

import torch

from steer_lightning.advantages import GRPO

NAN = float("nan")


def test_grpo_by_hand() -> None:
    # 1 of 4 right: deviations 3/4 and -1/4, squares 12/16, over 3: a variance of 1/4
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, NAN], [1.0, 1.0, 1.0, 1.0]])
    half = 0.5 + 1e-4
    two = 0.5**0.5 + 1e-4  # deviations 1/2 and -1/2, squares 1/2, over 1
    expected = [
        [0.75 / half, -0.25 / half, -0.25 / half, -0.25 / half],
        [0.5 / two, -0.5 / two, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(GRPO()(rewards), torch.tensor(expected))


def test_rewards_whose_squares_are_beyond_float32_have_advantages() -> None:
    # as above the deviation is half the largest reward: 3/4 and -1/4 over 1/2
    found = GRPO()(torch.tensor([[1e20, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.5, -0.5, -0.5, -0.5]]))
