"""What the rows of a pass may see, and how they lie by prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

HIDDEN = torch.finfo(torch.float32).min
"""Added to a score that must not count; finite, so that a row that sees nothing stays a number."""


class View(ABC):
    """What attention asks about the rows that read one token each.

    Attributes:
        num_columns: Tail columns in use, that of the token under way included.
        width: Columns of the longest prompt, T0.
        column: Where the token under way goes, if that is the same for all rows.
        slots: (N,) row slots.
        counts: (N,) tokens sampled so far, by slot.
        row_lengths: (N,) tokens of each row's prompt.
        prompt_lengths: (P,) tokens of each prompt.
        largest_group: Rows of a prompt at most.
        slots_by_group: (P * largest group,) row slots by prompt, filled up with 0.
        place: (N,) where each row lies in that.
        device: Of the tensors.
        prefilling: (P,) prompt slots that a prefill writes to; None while decoding.
    """

    num_columns: int
    width: int
    column: int | None
    slots: torch.Tensor
    counts: torch.Tensor
    row_lengths: torch.Tensor
    prompt_lengths: torch.Tensor
    largest_group: int
    slots_by_group: torch.Tensor
    place: torch.Tensor
    device: torch.device
    prefilling: torch.Tensor | None = None

    _is_regular: bool  # the rows lie by group already
    _is_uniform: bool  # all rows are equally long
    _padding_bias: torch.Tensor | None
    _biases: dict[int | None, tuple[torch.Tensor | None, torch.Tensor | None]]

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows of the pass, N."""

    @property
    @abstractmethod
    def num_prompts(self) -> int:
        """Prompts that they see, P."""

    # ---- positions, and what may be seen

    @property
    def columns(self) -> torch.Tensor:
        """(N,) where the token under way goes in each row's tail."""
        return self.counts - 1

    @property
    def positions(self) -> torch.Tensor:
        """(N,) of the token under way in its text."""
        return self.row_lengths + self.columns

    def biases(
        self, window: int | None, heads: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What is added to the scores on prompts and on tails; None where nothing is hidden.

        Args:
            window: Of the layer; None sees all.
            heads: Query heads a key-value head.

        Returns:
            (P, 1, 1 or rows of the group * heads, T0) and (N, 1, 1, T).
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
        """(P, 1, T0) of each prompt's tokens; negative for padding."""
        places = torch.arange(self.width, device=self.device)
        return (places - (self.width - self.prompt_lengths)[:, None])[:, None]

    def hide_padding(self) -> torch.Tensor:
        """What is added to the scores on prompts, (P, 1, 1, T0)."""
        return _bias(self._key_positions() >= 0)[:, None]

    def _prompt_bias(self, window: int | None, heads: int) -> torch.Tensor | None:
        if window is None:
            return self._padding_bias
        key_positions = self._key_positions()
        row_positions = self.positions[self.slots_by_group].view(self.num_prompts, -1, 1)
        seen = (key_positions >= 0) & (row_positions - key_positions < window)
        return _bias(seen).repeat_interleave(heads, 1)[:, None]

    # ---- rows by group and back

    def to_groups(self, query: torch.Tensor) -> torch.Tensor:
        """(N, K, g, D) by slot to (P, K, rows of the group * g, D)."""
        if not self._is_regular:
            query = query[self.slots_by_group]
        by_group = query.view(self.num_prompts, -1, *query.shape[1:]).transpose(1, 2)
        return by_group.flatten(2, 3)

    def from_groups(self, output: torch.Tensor, heads: int) -> torch.Tensor:
        """(P, K, rows of the group * g, E) to (N, K, g, E) by slot."""
        prompts, kv_heads, _, size = output.shape
        by_row = output.view(prompts, kv_heads, self.largest_group, heads, size)
        by_row = by_row.transpose(1, 2).flatten(0, 1)
        return by_row if self._is_regular else by_row[self.place]


def _bias(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, HIDDEN)
