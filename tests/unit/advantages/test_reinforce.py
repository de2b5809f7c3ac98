"""REINFORCE without a baseline."""

from __future__ import annotations

import torch

from steer_lightning.advantages import Reinforce

NAN = float("nan")


def test_reinforce_is_the_reward() -> None:
    assert Reinforce()(torch.tensor([[1.0, NAN], [0.5, 0.0]])).tolist() == [[1.0, 0.0], [0.5, 0.0]]
