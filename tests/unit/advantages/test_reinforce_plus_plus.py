"""Advantages over the whole batch, with numbers worked by hand."""

from __future__ import annotations

import torch

from steer_lightning.advantages import ReinforcePlusPlus

NAN = float("nan")


def test_reinforce_plus_plus_by_hand() -> None:
    # mean 1/2 and deviation 1/2 over the four that are scored, whatever their prompt
    rewards = torch.tensor([[1.0, 1.0, NAN], [0.0, NAN, 0.0]])
    assert ReinforcePlusPlus()(rewards).tolist() == [[1.0, 1.0, 0.0], [-1.0, 0.0, -1.0]]
    assert ReinforcePlusPlus()(torch.full((2, 2), 0.3)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert ReinforcePlusPlus()(torch.tensor([[1.0]])).tolist() == [[0.0]]


def test_rounding_is_no_signal() -> None:
    rewards = torch.full((4, 4), 0.5)
    rewards[0, 0] += 6e-8  # one bit
    assert 0 < ReinforcePlusPlus()(rewards).abs().max() < 1e-3
