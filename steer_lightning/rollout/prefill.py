"""Reading prompts: several in a pass, and a beginning that they have in common only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

PREFILL_TOKENS = 8192
"""Maximum number of tokens in a batch of prompts; more would cost memory and be no faster."""

SHORTEST_SHARED = 16
"""Minimum number of tokens that different prompts share, since sharing has a cost, too."""


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """A pass that reads P prompts, left-padded to the longest.

    If all P prompts begin with the same tokens, such as worked examples, a first pass reads these
    tokens in a single row, and a second one reads the rest of each prompt.
    """

    slots: torch.Tensor
    """Slots of the prompts, (P,) int64."""
    starting: torch.Tensor
    """Slots of the rows that start from these prompts, (P,) int64."""
    owners: torch.Tensor
    """Number of the experiment that each row of the pass belongs to, (rows,) int64."""
    lengths: list[int]
    """Number of tokens of each prompt, P."""
    shared: int
    """Number of tokens that all prompts begin with, C, if they are read only once; else 0."""
    reads_shared: bool
    """Whether this pass reads these tokens, in a single row, and not those behind them."""

    def rows_of(self, prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Returns the tokens in each row of the pass, from those of each prompt."""
        if self.reads_shared:
            return [prompts[0][: self.shared]]
        return [prompt[self.shared :] for prompt in prompts]

    @property
    def row_lengths(self) -> list[int]:
        """Number of tokens in each row of the pass."""
        if self.reads_shared:
            return [self.shared]
        return [length - self.shared for length in self.lengths]

    def store(self, room: torch.Tensor, states: torch.Tensor) -> None:
        """Stores the keys or values that the pass has computed.

        Args:
            room: Keys or values of all prompts in flight, aligned to the right, (slots, K, T0, D).
            states: Those of the rows of the pass, (rows, K, T, D).
        """
        if not self.shared:
            room[self.slots, :, -states.shape[2] :] = states
            return
        # one by one: the padding of a short prompt lies where its beginning is
        width = room.shape[2]
        for row, (slot, length) in enumerate(zip(self.slots.tolist(), self.lengths, strict=True)):
            first = width - length
            if self.reads_shared:
                room[slot, :, first : first + self.shared] = states[0]
            else:
                room[slot, :, first + self.shared :] = states[row, :, self.shared - length :]

    def with_beginning(self, room: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Puts the keys or values of a beginning that was read before in front of those of a pass.

        Args:
            room: Keys or values of all prompts in flight, (slots, K, T0, D).
            states: Those of the rows of the pass, (rows, K, T, D).

        Returns:
            Keys or values that the pass attends to, (rows, K, C + T, D), or `states` itself.
        """
        if not self.shared or self.reads_shared:
            return states
        first = room.shape[2] - self.lengths[0]
        known = room[self.slots[:1], :, first : first + self.shared]
        return torch.cat([known.expand(len(states), -1, -1, -1), states], 2)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Returns which tokens each token of the pass may see.

        Args:
            window: Width of the layer's sliding window; None for a layer without one.

        Returns:
            Mask (rows, 1, T, C + T) bool, or (rows, 1, T, T) if no beginning was read before; None
            if each token sees all before it.
        """
        device, lengths = self.slots.device, self.row_lengths
        width = max(lengths)
        known = 0 if self.reads_shared else self.shared
        if not known and min(lengths) == width and (window is None or width <= window):
            return None
        places = torch.arange(width, device=device)
        padding = width - torch.tensor(lengths, device=device)[:, None, None]  # (rows, 1, 1)
        distance = places[:, None] - places[None, :]
        seen = (distance >= 0) & (distance < (window or width))
        # padding sees itself; otherwise it would become NaN
        seen = seen & (places >= padding) | (distance == 0)
        if known:
            positions = known + places[:, None] - padding  # of the tokens of the pass, (rows, T, 1)
            before = positions - torch.arange(known, device=device)
            seen = torch.cat([before < (window or known + width), seen], 2)
        return seen[:, None]


def plan_passes(
    prompts: Mapping[int, Sequence[int]],
    owners: Mapping[int, int],
    *,
    may_share: bool,
    may_pad: bool,
) -> Iterator[tuple[list[int], int, bool]]:
    """Plans the passes that read prompts.

    Args:
        prompts: Tokens of the prompt in each slot.
        owners: Number of the experiment that each of them belongs to, by slot.
        may_share: Whether a beginning that prompts have in common may be read only once.
        may_pad: Whether the rows of a pass may have different numbers of tokens.

    Yields:
        For each pass the slots, `shared` and `reads_shared`; see `Prefill`.
    """
    groups = _by_beginning(prompts, owners) if may_share else [(list(prompts), 0)]
    for group, shared in groups:
        if shared:
            yield group, shared, True
        lengths = {slot: len(prompts[slot]) - shared for slot in group}
        slots = sorted(group, key=lengths.__getitem__)
        while slots:  # the longest first
            width = lengths[slots[-1]]
            # each row attends to the shared tokens, too
            chosen = slots[-max(1, PREFILL_TOKENS // (shared + width)) :]
            if not may_pad:
                chosen = [slot for slot in chosen if lengths[slot] == width]
            slots = slots[: -len(chosen)]
            yield chosen, shared, False


def _by_beginning(
    prompts: Mapping[int, Sequence[int]], owners: Mapping[int, int]
) -> Iterator[tuple[list[int], int]]:
    """Groups prompts that begin with the same tokens; yields slots and the number of these tokens.

    Only prompts of one owner share a beginning, because each owner has its own vectors. The last
    token of a prompt is never shared, since it predicts the completion.
    """
    alone: list[int] = []
    for owner in dict.fromkeys(owners.values()):
        mine = [slot for slot in prompts if owners[slot] == owner]
        # the first and the last prompt in alphabetical order have the least in common
        ordered = sorted(tuple(prompts[slot]) for slot in mine)
        shared = min(common_length(ordered[0], ordered[-1]), min(map(len, ordered)) - 1)
        if len(mine) > 1 and shared >= SHORTEST_SHARED:
            yield mine, shared
        else:
            alone += mine
    if alone:
        yield alone, 0


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """Returns the number of tokens in the common beginning of two texts."""
    differ = (k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return next(differ, min(len(one), len(two)))
