"""The gradients of several experiments on one base, accumulated in passes that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.training.batch import KeptMicroBatch, MiniBatch
from steer_lightning.training.gradient import BatchGradient, Totals
from steer_lightning.training.joint_packing import JointPacking
from steer_lightning.training.packing import PackedForward


@dataclass(kw_only=True)
class Share:
    """The part of one experiment in a joint update."""

    owner: int
    """Number of the experiment."""
    gradient: BatchGradient
    """Its settings, and where its gradient goes."""
    mini_batch: MiniBatch
    """Completions that it learns from."""
    totals: Totals = field(default_factory=Totals)
    """Sums over its micro-batches."""
    error: Exception | None = None
    """Reason why it has no gradient."""

    @property
    def can_join(self) -> bool:
        """Whether its micro-batches are packed, and read from the first layer on."""
        streams = (kept.stream for kept in self.mini_batch.micro_batches)
        skips = any(stream is not None and stream.is_used for stream in streams)
        return self.gradient.packed and not skips


Part = tuple[Share, KeptMicroBatch]


class JointGradient:
    """Reads micro-batches of several experiments in one sequence; each gets its own gradient.

    An experiment whose loss raises an error ends alone.

    Args:
        policy: Policy of the base whose steering is the `RowSteering` of all experiments.
        num_beside: Number of such passes at the same time, which share the memory of one.
    """

    def __init__(self, policy: Policy, num_beside: int = 1) -> None:
        self._policy, self._num_beside = policy, num_beside
        self._forward = PackedForward(policy)

    def accumulate(self, shares: Sequence[Share]) -> None:
        """Leaves each experiment's gradient in the `.grad` of its own trained parameters.

        Args:
            shares: Experiments that can join, at least one; totals and errors are put there.
        """
        for share in shares:
            for parameter in share.gradient.policy.steering.parameters():
                parameter.grad = torch.zeros_like(parameter)
        checkpointed = any(share.gradient.activation_checkpointing for share in shares)
        with self._policy.checkpointed(checkpointed), self._forward.passes():
            for parts in passes(shares, self._num_beside):
                self._read(parts)

    def _read(self, parts: Sequence[Part]) -> None:
        packings = [kept.prepared for _, kept in parts]
        joint = JointPacking(packings, [share.owner for share, _ in parts])
        # the backward pass needs the roles, too: with checkpointing it reads layers again
        roles = self._policy.attachment.with_roles(joint.roles)
        with self._forward.attending(joint), self._policy.with_segments(joint.segments), roles:
            states, head = self._forward.head_states(joint)
            losses = []
            for (share, kept), own in zip(parts, torch.split(states, joint.counts), strict=True):
                gradient = share.gradient
                try:
                    found = kept.prepared.token_states(
                        own, head, gradient.temperature, gradient.needs.entropy
                    )
                    losses.append(gradient.loss_of(share.mini_batch, kept, found, share.totals))
                except Exception as error:  # raised again where the experiment waits
                    share.error = error
            if losses:
                torch.autograd.backward(losses)


def passes(shares: Sequence[Share], num_beside: int = 1) -> Iterator[list[Part]]:
    """Groups the micro-batches of all experiments into passes of bounded size.

    Passes at the same time hold no more tokens together, prompts once per row, than the largest
    micro-batch may, unless a single micro-batch does. An experiment that has failed has no further
    part.
    """
    most = max(share.gradient.max_tokens for share in shares) // num_beside
    longest = max(len(share.mini_batch.micro_batches) for share in shares)
    chosen: list[Part] = []
    size = 0
    for number in range(longest):
        for share in shares:
            found = share.mini_batch.micro_batches
            if number >= len(found) or share.error is not None:
                continue
            added = int(found[number].micro_batch.mask.sum())
            if chosen and size + added > most:
                yield chosen
                chosen, size = [], 0
            chosen.append((share, found[number]))
            size += added
    if chosen:
        yield chosen
