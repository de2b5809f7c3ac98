"""Two completions of a batch, and what a loss makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from steer_lightning.losses import PolicyGradient
from steer_lightning.types import LossInputs

LENGTHS = torch.tensor([2, 3])


def inputs(**values: Any) -> LossInputs:
    """Two completions, of 2 and 3 tokens, of a batch of 4 with 9."""
    logprobs = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -0.5, -0.5]], requires_grad=True)
    given = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        sampling_logprobs=logprobs.detach(),
        mask=torch.arange(3) < LENGTHS[:, None],
        advantages=torch.tensor([2.0, -1.0]),
        num_rows=4,
        num_tokens=9,
    )
    return replace(given, **values)


def slope(loss: PolicyGradient, given: LossInputs) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss(given).loss, given.logprobs)
    return found


RATIOS = torch.tensor([[1.5, 1.1, 99.0], [0.5, 0.9, 1.5]])
MOVED = {"old_logprobs": inputs().logprobs.detach() - RATIOS.log()}
