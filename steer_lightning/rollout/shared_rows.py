"""Completions that have drawn the same tokens share one row, and part where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Parting:
    """What becomes of rows once each of their completions has drawn its next token."""

    rows: list[list[int]] = field(default_factory=list)
    """By slot: completions that stay there; none if all have ended."""
    tokens: list[int] = field(default_factory=list)
    """By slot: what they have drawn; 0 if all have ended."""
    split: list[tuple[int, list[int], int]] = field(default_factory=list)
    """Slot that is left, completions that leave it, and what these have drawn."""

    @property
    def ended(self) -> list[int]:
        """Slots of which all completions have ended."""
        return [slot for slot, row in enumerate(self.rows) if not row]


def part(rows: Sequence[list[int]], tokens: Sequence[int], ended: Sequence[bool]) -> Parting:
    """Keeps together what has drawn the same token, and lets go what has ended.

    Args:
        rows: By slot: its completions.
        tokens: What all these completions have drawn, one slot's behind the other's.
        ended: Whether they have ended with that; the same token ends all completions of a row.
    """
    drawn = zip(tokens, ended, strict=True)
    parting = Parting()
    for slot, row in enumerate(rows):
        groups = list(_by_token(row, drawn))
        parting.rows.append(groups[0][0] if groups else [])
        parting.tokens.append(groups[0][1] if groups else 0)
        parting.split += [(slot, group, token) for group, token in groups[1:]]
    return parting


def _by_token(row: list[int], drawn: Iterator[tuple[int, bool]]) -> Iterator[tuple[list[int], int]]:
    """Completions of a row that go on, by their token."""
    groups: dict[int, list[int]] = {}
    for completion in row:
        token, ended = next(drawn)
        if not ended:
            groups.setdefault(token, []).append(completion)
    for token, group in groups.items():
        yield group, token
