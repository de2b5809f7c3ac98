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
