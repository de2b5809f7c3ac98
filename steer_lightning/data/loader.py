"""Loads batches of prompts, and can resume in the middle of an epoch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from steer_lightning.data.order import PromptOrder
from steer_lightning.types import Prompt


class PromptList(Dataset[Prompt]):
    """A data set of prompts that are in memory."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]


def batches_of_epoch(length: int, limit: float) -> int:
    """Returns how many of an epoch's batches `trainer.limit_train_batches` allows.

    Args:
        length: Number of batches that the prompts make.
        limit: Number of batches if it is an integer, or a share of them if it is a float.
    """
    return min(limit, length) if isinstance(limit, int) else int(limit * length)


class ResumableLoader(DataLoader[Prompt]):
    """Yields as many batches per epoch as the prompts make, drawn by an order of its own.

    A loader with a random sampler would start a resumed epoch again, in another order. The state of
    this loader, which Lightning saves in checkpoints, is (epoch, batches served) and the state of
    the order. Further prompts in the middle of a step come from the same order, without making an
    epoch shorter.

    Args:
        prompts: All prompts.
        batch_size: Number of prompts in a batch, B.
        seed: Seed of the order.
        order: Order that draws prompts; it has not been started.
        limit: Limit of an epoch's batches, see `batches_of_epoch`; the next epoch continues in the
            order where this one has ended.

    Attributes:
        epoch_batches: Number of batches in an epoch, with the limit. Lightning asks for the length,
            which is without the limit, and applies the limit itself.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        batch_size: int,
        seed: int,
        order: PromptOrder,
        limit: float = 1.0,
    ) -> None:
        super().__init__(
            PromptList(prompts), batch_size=batch_size, collate_fn=list, drop_last=True
        )
        self._prompts, self._order = prompts, order
        self._number = {prompt.id: k for k, prompt in enumerate(prompts)}
        self._order.start(len(prompts), seed)
        self._epoch = self._served = 0
        self.epoch_batches = batches_of_epoch(len(self), limit)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # batches, not the base class's iterator object
        epoch = self._epoch
        for batch in range(self._served, self.epoch_batches):
            is_last = batch + 1 == self.epoch_batches
            # advanced before the batch is handed out: a checkpoint after its step continues with
            # the next one
            self._epoch, self._served = (epoch + 1, 0) if is_last else (epoch, batch + 1)
            yield self.take(self.batch_size or 1)

    def take(self, count: int, without: Sequence[Prompt] = ()) -> list[Prompt]:
        """Draws the next prompts, other than those of this step; fewer if no more exist."""
        numbers = self._order.take(count, [self._number[prompt.id] for prompt in without])
        return [self._prompts[k] for k in numbers]

    def peek(self) -> list[Prompt]:
        """Returns the next batch, without drawing it from the order."""
        order = copy.deepcopy(self._order)
        return [self._prompts[k] for k in order.take(self.batch_size or 1, [])]

    def record(self, prompts: Sequence[Prompt], rewards: torch.Tensor) -> None:
        """Passes the rewards (b, G) of a step's prompts to the order."""
        self._order.record([self._number[prompt.id] for prompt in prompts], rewards)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the loader."""
        return {
            "epoch": self._epoch,
            "served": self._served,
            "order": self._order.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the position of a checkpoint."""
        self._epoch, self._served = state["epoch"], state["served"]
        self._order.load_state_dict(state["order"])
