"""The packed sequences of several experiments, joined into one that a single pass reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from steer_lightning.model.attention import AttentionCall
from steer_lightning.training.packing import Packing


class JointPacking:
    """Packings one behind the other; rows of different packings never see each other.

    Args:
        packings: Packed micro-batches.
        owners: Number of the experiment of each packing.

    Attributes:
        ids: Tokens of all packings, (1, S) int64.
        positions: Position of each token in its text, (1, S) int64.
        roles: Role of each token, (1, S) int64, as in `steering.tokens`.
        segments: Number of the experiment and number of tokens of each packing.
        predictors: Places in the sequence whose logits predict completion tokens, (Q,) int64.
        counts: Number of predictors of each packing.
    """

    def __init__(self, packings: Sequence[Packing], owners: Sequence[int]) -> None:
        self._packings = packings
        self.lengths = [packing.ids.shape[1] for packing in packings]
        self.ids = torch.cat([packing.ids for packing in packings], 1)
        self.positions = torch.cat([packing.positions for packing in packings], 1)
        self.roles = torch.cat([packing.roles for packing in packings], 1)
        self.segments = list(zip(owners, self.lengths, strict=True))
        firsts = [sum(self.lengths[:k]) for k in range(len(packings))]
        self.predictors = torch.cat(
            [first + packing.predictors for first, packing in zip(firsts, packings, strict=True)]
        )
        self.counts = [len(packing.predictors) for packing in packings]

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attends within the rows of each packing; see `Packing.attend`."""
        outputs = []
        parts = (torch.split(x, self.lengths, 2) for x in (call.query, call.key, call.value))
        for packing, query, key, value in zip(self._packings, *parts, strict=True):
            own = replace(call, query=query, key=key, value=value)
            outputs.append(packing.attend(own))
        return torch.cat(outputs, 1)

    def by_rows(
        self, mix: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor
    ) -> torch.Tensor:
        """Mixes the tokens within the rows of each packing; see `Packing.by_rows`."""
        parts = zip(self._packings, torch.split(states, self.lengths, 1), strict=True)
        return torch.cat([packing.by_rows(mix, part) for packing, part in parts], 1)
