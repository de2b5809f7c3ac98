"""Group-relative advantages without the deviation, with numbers worked by hand."""

from __future__ import annotations

import torch

from steer_lightning.advantages import RLOO, DrGRPO

NAN = float("nan")


def test_dr_grpo_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, NAN], [0.5, NAN, NAN, NAN]])
    expected = [[0.75, -0.25, -0.25, -0.25], [0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert DrGRPO()(rewards).tolist() == expected
    assert torch.allclose(RLOO()(rewards[:1]) * 3 / 4, DrGRPO()(rewards[:1]))
