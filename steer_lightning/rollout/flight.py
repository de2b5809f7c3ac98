"""Which completions are in flight, and where their keys and values lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.rollout.attention_view import View


class Flight(View):
    """Slots for rows and prompts, kept without gaps, and what each row may see.

    Completions and prompts are numbered as in the call: completion n answers prompt n // G. A row
    is what a forward pass reads: all completions of a prompt that have drawn the same tokens so
    far share one. A slot is a place in the buffers. When a row has ended, the row of the last slot
    moves into its place.

    Args:
        lengths: Tokens of each prompt.
        group_size: Completions of a prompt, G.
        max_rows: Row slots; completions in flight at most, since each may come to need its own.
        max_prompts: Prompt slots.
        max_columns: Tokens of a completion at most.
        device: Of the tensors.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        group_size: int,
        *,
        max_rows: int,
        max_prompts: int,
        max_columns: int,
        device: torch.device,
    ) -> None:
        self.lengths, self.group_size, self.device = lengths, group_size, device
        self.max_rows, self.max_prompts, self.max_columns = max_rows, max_prompts, max_columns
        self.max_width = max(lengths)
        self.rows: list[list[int]] = []  # by slot: its completions
        self.prompts: list[int] = []  # by slot
        self._prefill_lengths = torch.zeros(0)
        self._clock = 0
        self._born: list[int] = []  # by slot, on the clock
        self._biases = {}

    @property
    def num_rows(self) -> int:
        """Rows in flight."""
        return len(self.rows)

    @property
    def num_completions(self) -> int:
        """Completions in flight."""
        return sum(map(len, self.rows))

    @property
    def num_prompts(self) -> int:
        """Prompts in flight."""
        return len(self.prompts)

    # ---- taking in and letting go

    def admit(self, completions: Sequence[int]) -> list[int]:
        """Gives a slot to all completions of a prompt together, since none has drawn a token yet.

        Their columns are counted as if they had one, which is drawn before the next pass.

        Returns:
            Prompts that are new.
        """
        groups: dict[int, list[int]] = {}
        for n in completions:
            groups.setdefault(n // self.group_size, []).append(n)
        new = sorted(groups.keys() - set(self.prompts))
        self.prompts += new
        self.rows += groups.values()
        self._born += [self._clock - 1] * len(groups)
        return new

    def split(self, slots: Sequence[int], rows: Sequence[list[int]]) -> list[int]:
        """Gives slots of their own to rows that leave others; returns them."""
        first = len(self.rows)
        self.rows += rows
        self._born += [self._born[slot] for slot in slots]
        return list(range(first, len(self.rows)))

    def release(self, ended: Sequence[int]) -> tuple[list[int], list[int]]:
        """Takes rows away by slot; returns the slots of rows that move, and where they go."""
        source, target = _fill_gaps(len(self.rows), ended)
        for old, new in zip(source, target, strict=True):
            self.rows[new], self._born[new] = self.rows[old], self._born[old]
        kept = len(self.rows) - len(ended)
        del self.rows[kept:], self._born[kept:]
        return source, target

    def release_prompts(self) -> tuple[list[int], list[int]]:
        """Takes prompts without rows away; returns slots as `release` does."""
        needed = {row[0] // self.group_size for row in self.rows}
        ended = [slot for slot, prompt in enumerate(self.prompts) if prompt not in needed]
        source, target = _fill_gaps(len(self.prompts), ended)
        for old, new in zip(source, target, strict=True):
            self.prompts[new] = self.prompts[old]
        del self.prompts[len(self.prompts) - len(ended) :]
        return source, target

    def settle(self) -> None:
        """Brings the tensors up to date after rows came or went."""
        slot_of = {prompt: slot for slot, prompt in enumerate(self.prompts)}
        groups: list[list[int]] = [[] for _ in self.prompts]
        place = []
        prompts = [row[0] // self.group_size for row in self.rows]
        for slot, prompt in enumerate(prompts):
            group = groups[slot_of[prompt]]
            place.append((slot_of[prompt], len(group)))
            group.append(slot)
        self.largest_group = max(map(len, groups), default=0)
        padded = [group + [0] * (self.largest_group - len(group)) for group in groups]
        order = [slot for group in padded for slot in group]
        self._is_regular = order == list(range(len(self.rows)))
        self.slots_by_group = self._tensor(order)
        self.place = self._tensor([p * self.largest_group + j for p, j in place])
        self.slots = torch.arange(len(self.rows), device=self.device)
        self.completions = self._tensor([n for row in self.rows for n in row])
        """All in flight, one slot's behind the other's."""
        self.is_shared = len(self.completions) > len(self.rows)
        self.row_lengths = self._tensor([self.lengths[prompt] for prompt in prompts])
        self.prompt_lengths = self._tensor([self.lengths[p] for p in self.prompts])
        self.width = max((self.lengths[p] for p in self.prompts), default=0)
        self._born_tensor = self._tensor(self._born)
        self._oldest = min(self._born, default=0)
        self._is_uniform = self._oldest == max(self._born, default=0)
        alike = len({self.lengths[prompt] for prompt in self.prompts}) <= 1
        self._padding_bias = None if alike else self.hide_padding()
        self._read_clock()

    def advance(self) -> None:
        """Each row has one token more."""
        self._clock += 1
        self._read_clock()

    def _read_clock(self) -> None:
        self.counts = self._clock - self._born_tensor
        """(N,) tokens sampled so far, by slot."""
        self.num_columns = self._clock - self._oldest
        """Tail columns in use, that of the token under way included."""
        self.column = self.num_columns - 1 if self._is_uniform else None
        """Where the token under way goes, if that is the same for all rows."""
        self._biases.clear()

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    # ---- reading prompts

    def start_prefill(self, slots: Sequence[int]) -> None:
        """The next forward pass reads these prompts, left-padded to the longest."""
        self.prefilling = self._tensor(slots)
        self._prefill_lengths = self._tensor([self.lengths[self.prompts[slot]] for slot in slots])

    def end_prefill(self) -> None:
        """The next forward passes read one token a row."""
        self.prefilling = None

    def prefill_mask(self, window: int | None) -> torch.Tensor | None:
        """(P, 1, T, T) bool, True where a prompt's token may look; None for plain causality."""
        lengths = self._prefill_lengths
        width = int(lengths.max())
        if int(lengths.min()) == width and (window is None or width <= window):
            return None
        places = torch.arange(width, device=self.device)
        distance = places[:, None] - places[None, :]
        seen = (distance >= 0) & (distance < (window or width))
        real = places >= (width - lengths)[:, None, None]
        return (seen & real | (distance == 0))[:, None]  # padding sees itself, to be a number


def _fill_gaps(count: int, ended: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which of `count` slots move where, so that those left are the first ones."""
    kept = count - len(ended)
    gone = set(ended)
    target = [slot for slot in sorted(gone) if slot < kept]
    source = [slot for slot in range(kept, count) if slot not in gone]
    return source, target
