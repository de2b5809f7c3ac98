"""The base that several experiments share, and whose vectors act on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from steer_lightning.model.policy import Policy
from steer_lightning.steering import SiteVectors
from steer_lightning.steering.row_vectors import RowSteering, RowVectors


class SharedBase:
    """K policies on one model, of which one acts at a time, or all of them row by row.

    Args:
        policies: Policies that have adopted the same model; each trains vectors of its own.

    Attributes:
        policies: Policies of the experiments.
        joint: Policy whose steering is that of all experiments, row by row.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        first = policies[0]
        assert all(policy.model is first.model for policy in policies)
        self.policies = policies
        steerings = [policy.steering for policy in policies]
        assert all(isinstance(steering, SiteVectors) for steering in steerings)
        self.joint = Policy(first.base, steering=RowSteering(steerings))  # type: ignore[arg-type]
        self.joint.tokenizer, self.joint.sharding = first.tokenizer, first.sharding
        self.joint.adopt(first.model)
        self._pause()

    def _pause(self) -> None:
        for policy in (*self.policies, self.joint):
            policy.attachment.is_paused = True

    def begin_serving(self, number: int) -> None:
        """Lets the vectors of one experiment act."""
        self.policies[number].attachment.is_paused = False

    def end_serving(self, number: int) -> None:
        """Lets no vectors act."""
        self.policies[number].attachment.is_paused = True

    @contextmanager
    def serving(self, number: int) -> Iterator[None]:
        """Lets the vectors of one experiment act in the block."""
        self.begin_serving(number)
        try:
            yield
        finally:
            self.end_serving(number)

    @contextmanager
    def serving_all(self, numbers: Sequence[int] | None = None) -> Iterator[Policy]:
        """Lets the vectors of several experiments act in the block, each on its own rows.

        Args:
            numbers: Numbers of the experiments; default: all.
        """
        attachment = self.joint.attachment
        assert isinstance(attachment, RowVectors)
        attachment.scales = [policy.attachment.scale for policy in self.policies]
        attachment.serves(range(len(self.policies)) if numbers is None else numbers)
        attachment.is_paused = False
        try:
            yield self.joint
        finally:
            attachment.is_paused = True


def copy_of(model: Any) -> Any:
    """Returns a copy of a model with the same weights in the same memory, but hooks of its own.

    Its parameters are other objects, since a check of a base in 16 bits gives them other numbers
    for a while (`model.precision`), and must not change what another thread reads.
    """
    own: dict[int, torch.Tensor] = {
        **{id(x): nn.Parameter(x.detach(), requires_grad=False) for x in model.parameters()},
        **{id(x): x.detach() for x in model.buffers()},
    }
    return copy.deepcopy(model, own)
