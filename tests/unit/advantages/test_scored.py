"""Which groups have signal."""

from __future__ import annotations

import torch

from steer_lightning.advantages import has_signal

NAN = float("nan")


def test_signal() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, NAN], [NAN, NAN]])
    assert has_signal(rewards).tolist() == [True, False, False, False]
