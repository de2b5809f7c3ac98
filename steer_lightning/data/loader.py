"""A shuffled loader that can go on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from steer_lightning.types import Prompt


class PromptList(Dataset[Prompt]):
    """Prompts in memory."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]


class ResumableLoader(DataLoader[Prompt]):
    """Yields batches of prompts in an order that comes from (seed, epoch) alone.

    The last, smaller one is dropped.

    A loader with a random sampler starts a resumed epoch over, in another order. This one keeps
    (epoch, batches served) in its state, which Lightning saves in checkpoints.

    Args:
        prompts: All of them.
        batch_size: B.
        seed: Of the order.
    """

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, seed: int) -> None:
        super().__init__(
            PromptList(prompts), batch_size=batch_size, collate_fn=list, drop_last=True
        )
        self._prompts, self._seed = prompts, seed
        self._epoch = self._served = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # batches, not the base class's iterator object
        epoch, first = self._epoch, self._served
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._prompts), generator=generator).tolist()
        size = self.batch_size or 1
        for batch in range(first, len(self)):
            is_last = batch + 1 == len(self)
            # advanced before the batch is handed out: a checkpoint after its step goes on with the
            # next one
            self._epoch, self._served = (epoch + 1, 0) if is_last else (epoch, batch + 1)
            yield [self._prompts[k] for k in order[batch * size : (batch + 1) * size]]

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands."""
        return {"epoch": self._epoch, "served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from there."""
        self._epoch, self._served = state["epoch"], state["served"]
