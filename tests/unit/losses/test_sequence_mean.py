"""GRPO's mean over tokens, then over completions."""

from __future__ import annotations

import torch

from steer_lightning.losses import SequenceMean
from tests.unit.losses.helpers import inputs


def test_each_completion_counts_the_same_by_hand() -> None:
    """Completions of 2 and 3 tokens of a batch of 4: 1/8 and 1/12 for each token."""
    found = SequenceMean().weights(inputs())
    torch.testing.assert_close(found, torch.tensor([[1 / 8], [1 / 12]]))
    torch.testing.assert_close(found[:, 0] * torch.tensor([2, 3]), torch.full((2,), 1 / 4))
