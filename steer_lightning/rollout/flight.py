"""The flight: completions being sampled, their slots in memory, and the tokens each row may see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from steer_lightning.rollout.prefill import Prefill

HIDDEN = torch.finfo(torch.float32).min
"""Number added to a score that must not count. It is finite, so that a row that sees nothing does
not get NaN."""


class View(ABC):
    """The facts that attention needs about the rows that read one token each.

    The current token of a row is the token that the pass reads. All tensors except the biases are
    int64.

    Attributes:
        num_columns: Number of tail columns in use, including that of the current token.
        width: Number of columns of the longest prompt, T0.
        column: Column of the current token, if it is the same for all rows, else None.
        slots: Slots of the rows, (N,).
        counts: Number of tokens sampled so far, (N,), by slot.
        row_lengths: Number of tokens of each row's prompt, (N,), by slot.
        owners: Number of the experiment that each row belongs to, (N,), by slot.
        prompt_lengths: Number of tokens of each prompt, (P,), by slot.
        largest_group: Largest number of rows of one prompt.
        slots_by_group: Slots of the rows by prompt, filled up with 0, (P * largest group,).
        place: Place of each row in `slots_by_group`, (N,).
        device: Device of the tensors.
        prefilling: The pass over prompts that is under way; None while decoding.
    """

    num_columns: int
    width: int
    column: int | None
    slots: torch.Tensor
    counts: torch.Tensor
    row_lengths: torch.Tensor
    owners: torch.Tensor
    prompt_lengths: torch.Tensor
    largest_group: int
    slots_by_group: torch.Tensor
    place: torch.Tensor
    device: torch.device
    prefilling: Prefill | None = None

    _is_regular: bool  # the rows are already ordered by group
    _is_uniform: bool  # all rows are equally long
    _padding_bias: torch.Tensor | None
    _biases: dict[int | None, tuple[torch.Tensor | None, torch.Tensor | None]]

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Number of rows of the pass, N."""

    @property
    @abstractmethod
    def num_prompts(self) -> int:
        """Number of prompts that the rows see, P."""

    # ---- positions and masks

    @property
    def columns(self) -> torch.Tensor:
        """Column of the current token in each row's tail, (N,) int64."""
        return self.counts - 1

    @property
    def positions(self) -> torch.Tensor:
        """Position of each row's current token in its text, (N,) int64."""
        return self.row_lengths + self.columns

    def biases(
        self, window: int | None, heads: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Returns the biases of the scores on prompts and on tails; None if nothing is hidden.

        Args:
            window: Width of the layer's sliding window; None for a layer without one.
            heads: Number of query heads for each key-value head.

        Returns:
            Biases (P, 1, 1 or rows of the group * heads, T0) and (N, 1, 1, T).
        """
        longest = self.width + self.num_columns
        window = None if window is None or longest <= window else window
        if window not in self._biases:
            self._biases[window] = self._prompt_bias(window, heads), self._tail_bias(window)
        return self._biases[window]

    def _tail_bias(self, window: int | None) -> torch.Tensor | None:
        if self._is_uniform and window is None:
            return None
        distance = self.columns[:, None] - torch.arange(self.num_columns, device=self.device)
        seen = (distance >= 0) & (distance < (window or self.num_columns))
        return _bias(seen)[:, None, None]

    def _key_positions(self) -> torch.Tensor:
        """Returns the positions of each prompt's tokens, (P, 1, T0); negative for padding."""
        places = torch.arange(self.width, device=self.device)
        return (places - (self.width - self.prompt_lengths)[:, None])[:, None]

    def hide_padding(self) -> torch.Tensor:
        """Returns the bias of the scores on prompts that hides their padding, (P, 1, 1, T0)."""
        return _bias(self._key_positions() >= 0)[:, None]

    def _prompt_bias(self, window: int | None, heads: int) -> torch.Tensor | None:
        if window is None:
            return self._padding_bias
        key_positions = self._key_positions()
        row_positions = self.positions[self.slots_by_group].view(self.num_prompts, -1, 1)
        seen = (key_positions >= 0) & (row_positions - key_positions < window)
        return _bias(seen).repeat_interleave(heads, 1)[:, None]

    # ---- from rows to groups and back

    def to_groups(self, query: torch.Tensor) -> torch.Tensor:
        """Reorders queries (N, K, g, D) by slot into (P, K, rows of the group * g, D)."""
        if not self._is_regular:
            query = query[self.slots_by_group]
        by_group = query.view(self.num_prompts, -1, *query.shape[1:]).transpose(1, 2)
        return by_group.flatten(2, 3)

    def from_groups(self, output: torch.Tensor, heads: int) -> torch.Tensor:
        """Reorders outputs (P, K, rows of the group * g, E) into (N, K, g, E) by slot."""
        prompts, kv_heads, _, size = output.shape
        by_row = output.view(prompts, kv_heads, self.largest_group, heads, size)
        by_row = by_row.transpose(1, 2).flatten(0, 1)
        return by_row if self._is_regular else by_row[self.place]


def _bias(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, HIDDEN)


class Flight(View):
    """The slots of rows and prompts, kept without gaps, and the tokens that each row may see.

    Completions and prompts are numbered as in the call. A row is one row of a forward pass; all
    completions of a prompt that have drawn the same tokens so far share one row. A slot is a place
    in the buffers. When a row has ended, the row in the last slot moves into its place.

    Args:
        lengths: Number of tokens of each prompt.
        prompt_of: Number of the prompt that each completion answers.
        owner_of: Number of the experiment that each prompt belongs to.
        max_rows: Number of row slots, and also the maximum number of completions in flight, because
            each completion may later need a row of its own.
        max_prompts: Number of prompt slots.
        max_columns: Maximum number of tokens in a completion.
        device: Device of the tensors.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        prompt_of: Sequence[int],
        owner_of: Sequence[int],
        *,
        max_rows: int,
        max_prompts: int,
        max_columns: int,
        device: torch.device,
    ) -> None:
        self.lengths, self.prompt_of, self.owner_of = lengths, prompt_of, owner_of
        self.device = device
        self.max_rows, self.max_prompts, self.max_columns = max_rows, max_prompts, max_columns
        self.max_width = max(lengths)
        self.most_of_a_prompt = max(Counter(prompt_of).values())
        self.rows: list[list[int]] = []  # completions of the row in each slot
        self.prompts: list[int] = []  # number of the prompt in each slot
        self._clock = 0
        self._born: list[int] = []  # time at which the row in each slot began
        self._biases = {}

    @property
    def num_rows(self) -> int:
        """Number of rows in flight."""
        return len(self.rows)

    @property
    def num_completions(self) -> int:
        """Number of completions in flight."""
        return sum(map(len, self.rows))

    @property
    def num_prompts(self) -> int:
        """Number of prompts in flight."""
        return len(self.prompts)

    @property
    def prompt_by_slot(self) -> list[int]:
        """Number of the prompt that the row in each slot answers."""
        return [self.prompt_of[row[0]] for row in self.rows]

    # ---- admitting and removing

    def admit(self, completions: Sequence[int]) -> list[int]:
        """Gives one slot to all completions of a prompt, since none has drawn a token yet.

        Columns are counted as if each completion already had a token, since one is drawn before the
        next pass.

        Returns:
            Numbers of the new prompts.
        """
        groups: dict[int, list[int]] = {}
        for n in completions:
            groups.setdefault(self.prompt_of[n], []).append(n)
        new = sorted(groups.keys() - set(self.prompts))
        self.prompts += new
        self.rows += groups.values()
        self._born += [self._clock - 1] * len(groups)
        return new

    def split(self, slots: Sequence[int], rows: Sequence[list[int]]) -> list[int]:
        """Gives a slot to each row that splits off from another one; returns the slots.

        Args:
            slots: Slots of the rows from which the new rows split off.
            rows: Completions of each new row.
        """
        first = len(self.rows)
        self.rows += rows
        self._born += [self._born[slot] for slot in slots]
        return list(range(first, len(self.rows)))

    def release(self, ended: Sequence[int]) -> tuple[list[int], list[int]]:
        """Removes rows by slot; returns the slots of the rows that move and their new slots."""
        source, target = _fill_gaps(len(self.rows), ended)
        for old, new in zip(source, target, strict=True):
            self.rows[new], self._born[new] = self.rows[old], self._born[old]
        kept = len(self.rows) - len(ended)
        del self.rows[kept:], self._born[kept:]
        return source, target

    def release_prompts(self) -> tuple[list[int], list[int]]:
        """Removes prompts without rows; returns slots like `release`."""
        needed = set(self.prompt_by_slot)
        ended = [slot for slot, prompt in enumerate(self.prompts) if prompt not in needed]
        source, target = _fill_gaps(len(self.prompts), ended)
        for old, new in zip(source, target, strict=True):
            self.prompts[new] = self.prompts[old]
        del self.prompts[len(self.prompts) - len(ended) :]
        return source, target

    def settle(self) -> None:
        """Updates the tensors after rows have been admitted or removed."""
        slot_of = {prompt: slot for slot, prompt in enumerate(self.prompts)}
        groups: list[list[int]] = [[] for _ in self.prompts]
        place = []
        prompts = self.prompt_by_slot
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
        """Numbers of the completions in flight, (num_completions,) int64, slot after slot."""
        self.is_shared = len(self.completions) > len(self.rows)
        self.row_lengths = self._tensor([self.lengths[prompt] for prompt in prompts])
        self.owners = self._tensor([self.owner_of[prompt] for prompt in prompts])
        self.prompt_lengths = self._tensor([self.lengths[p] for p in self.prompts])
        self.width = max((self.lengths[p] for p in self.prompts), default=0)
        self._born_tensor = self._tensor(self._born)
        self._oldest = min(self._born, default=0)
        self._is_uniform = self._oldest == max(self._born, default=0)
        alike = len({self.lengths[prompt] for prompt in self.prompts}) <= 1
        self._padding_bias = None if alike else self.hide_padding()
        self._read_clock()

    def advance(self) -> None:
        """Counts one more token for each row."""
        self._clock += 1
        self._read_clock()

    def _read_clock(self) -> None:
        self.counts = self._clock - self._born_tensor
        """Number of tokens sampled so far, (N,) int64, by slot."""
        self.num_columns = self._clock - self._oldest
        """Number of tail columns in use, including that of the current token."""
        self.column = self.num_columns - 1 if self._is_uniform else None
        """Column of the current token, if it is the same for all rows, else None."""
        self._biases.clear()

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    # ---- reading prompts

    def prefill_of(self, slots: Sequence[int], shared: int, reads_shared: bool) -> Prefill:
        """Returns a pass over the prompts in some slots; see `Prefill` for the other arguments."""
        latest = {prompt: slot for slot, prompt in enumerate(self.prompt_by_slot)}
        prompts = [self.prompts[slot] for slot in slots]
        owners = [self.owner_of[prompt] for prompt in prompts]
        return Prefill(
            slots=self._tensor(slots),
            starting=self._tensor([latest[prompt] for prompt in prompts]),
            owners=self._tensor(owners[:1] if reads_shared else owners),
            lengths=[self.lengths[prompt] for prompt in prompts],
            shared=shared,
            reads_shared=reads_shared,
        )


def _fill_gaps(count: int, ended: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns which of `count` slots move, and where to, so that the remaining ones come first."""
    kept = count - len(ended)
    gone = set(ended)
    target = [slot for slot in sorted(gone) if slot < kept]
    source = [slot for slot in range(kept, count) if slot not in gone]
    return source, target


@dataclass
class Parting:
    """The split of rows whose completions have drawn different next tokens."""

    rows: list[list[int]] = field(default_factory=list)
    """Completions that stay in each slot; empty if all have ended."""
    tokens: list[int] = field(default_factory=list)
    """Token that the completions in each slot have drawn; 0 if all have ended."""
    split: list[tuple[int, list[int], int]] = field(default_factory=list)
    """New rows: the slot from which each one splits off, its completions, and the token they
    drew."""

    @property
    def ended(self) -> list[int]:
        """Slots whose completions have all ended."""
        return [slot for slot, row in enumerate(self.rows) if not row]


def part(rows: Sequence[list[int]], tokens: Sequence[int], ended: Sequence[bool]) -> Parting:
    """Groups completions that have drawn the same token, and drops those that have ended.

    Args:
        rows: Completions in each slot.
        tokens: Token that each of these completions has drawn, slot after slot.
        ended: Whether each completion has ended with its token; the same token ends all
            completions of a row.
    """
    drawn = zip(tokens, ended, strict=True)
    parting = Parting()
    for slot, row in enumerate(rows):
        if len(row) == 1:  # most rows, once completions differ
            token, has_ended = next(drawn)
            parting.rows.append([] if has_ended else row)
            parting.tokens.append(0 if has_ended else token)
            continue
        groups = list(_by_token(row, drawn))
        parting.rows.append(groups[0][0] if groups else [])
        parting.tokens.append(groups[0][1] if groups else 0)
        parting.split += [(slot, group, token) for group, token in groups[1:]]
    return parting


def _by_token(row: list[int], drawn: Iterator[tuple[int, bool]]) -> Iterator[tuple[list[int], int]]:
    """Yields the completions of a row that continue, grouped by their token, with that token."""
    groups: dict[int, list[int]] = {}
    for completion in row:
        token, ended = next(drawn)
        if not ended:
            groups.setdefault(token, []).append(completion)
    for token, group in groups.items():
        yield group, token
