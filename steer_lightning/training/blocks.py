"""The blocks of tokens in which attention and recurrences read a packed sequence.

A block of rows holds whole texts, so that a beginning that texts share is read once for each of
them. A block of trees holds each token of a group once, with a mask of the tokens before it in its
text. Trees have far fewer tokens where completions are short or begin alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

WIDEST_TREE = 256
"""Maximum number of tokens of a tree, since the memory for its mask grows with their square."""

Places = TypeVar("Places", bound=Sequence[int])


@dataclass(kw_only=True)
class Block:
    """Rows or trees of similar size, padded on the right to the same number of tokens T."""

    places: torch.Tensor
    """Place of each token in the packed sequence, (n, T) int64; any place where padded."""
    lengths: torch.Tensor
    """Number of tokens of each row or tree, (n,) int64."""
    depths: torch.Tensor | None = None
    """Position of each token in its text, (n, T) int64, 0 where padded; None for rows."""
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Returns the mask of the tokens that each token may see.

        Args:
            window: Width of the layer's sliding window; None for a layer without one.

        Returns:
            Mask (T, T) bool for rows, or (n, 1, T, T) bool for trees; None if the causal mask is
            enough.
        """
        width = self.places.shape[1]
        window = None if window is None or width <= window else window
        if window is None and self.depths is None:
            return None
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> torch.Tensor:
        if self.depths is None:
            places = torch.arange(self.places.shape[1], device=self.places.device)
            distance = places[:, None] - places
            seen = distance >= 0
        else:
            distance = (self.depths[:, :, None] - self.depths[:, None])[:, None]
            seen = ancestors(self.depths)[:, None]
        return seen if window is None else seen & (distance < window)


def ancestors(depths: torch.Tensor) -> torch.Tensor:
    """Finds the tokens that lie on the way from the first token of a tree to each token.

    Each text follows the one with which it shares most, and only its own tokens stand in the tree.
    So a token belongs to the text of a later one if no token between them, nor the later one, is as
    close to the beginning.

    Args:
        depths: Position of each token in its text, (n, T) int64.

    Returns:
        Mask (n, T, T) bool, True where token i has token j in its text; i and j are the second and
        the third dimension. Each token has itself.
    """
    width = depths.shape[1]
    places = torch.arange(width, device=depths.device)
    is_later = places[:, None] < places  # (j, i)
    between = depths[:, None].masked_fill(~is_later, torch.iinfo(depths.dtype).max)
    closest = between.cummin(2).values  # of the tokens behind j up to i
    seen = (closest > depths[:, :, None]) & is_later | (places[:, None] == places)
    return seen.transpose(1, 2).contiguous()


class Blocks:
    """Blocks that together hold each token of a packed sequence.

    Args:
        blocks: The blocks, at least one.
        num_tokens: Number of tokens of the packed sequence, S.

    Attributes:
        all: The blocks.
    """

    def __init__(self, blocks: Sequence[Block], num_tokens: int) -> None:
        self.all = list(blocks)
        kept = []
        for block in blocks:
            columns = torch.arange(block.places.shape[1], device=block.places.device)
            kept.append((columns < block.lengths[:, None]).flatten())
        inside = torch.cat(kept).nonzero().squeeze(1)
        places = torch.cat([block.places.flatten() for block in blocks])[inside]
        # a token that several rows share comes from the last of them, so that runs are repeatable
        self._origin = inside.new_zeros(num_tokens).scatter_reduce_(0, places, inside, "amax")

    def put_back(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Puts the outputs of the blocks, (n * T, ...) each, into packed order, (1, S, ...)."""
        return torch.cat(list(outputs)).index_select(0, self._origin)[None]


def row_blocks(rows: Sequence[Sequence[int]], device: torch.device) -> list[Block]:
    """Returns blocks of rows of similar length.

    Args:
        rows: Places of the tokens of each row in the packed sequence.
        device: Device of the tensors.
    """
    found = []
    for bucket in by_size(rows):
        width = len(bucket[0])
        padded = [[*row, *[0] * (width - len(row))] for row in bucket]
        lengths = torch.tensor([len(row) for row in bucket], device=device)
        found.append(Block(places=torch.tensor(padded, device=device), lengths=lengths))
    return found


def attention_blocks(
    rows: Sequence[Sequence[int]], groups: Sequence[int], positions: torch.Tensor
) -> list[Block]:
    """Returns blocks in which attention is cheapest: groups as trees, or their rows.

    Args:
        rows: Places of the tokens of each row in the packed sequence; those of a group lie together
            and in the order of `share_beginnings`.
        groups: Number of each row's group.
        positions: Position of each token in its text, (S,) int64.
    """
    by_group: dict[int, list[Sequence[int]]] = {}
    for row, group in zip(rows, groups, strict=True):
        by_group.setdefault(group, []).append(row)
    trees, others = [], []
    for members in by_group.values():
        tree = range(min(row[0] for row in members), max(row[-1] for row in members) + 1)
        if is_cheaper(len(tree), [len(row) for row in members]):
            trees.append(tree)
        else:
            others += members
    found = row_blocks(others, positions.device)
    for bucket in by_size(trees):
        starts, lengths = (
            torch.tensor(numbers, device=positions.device)
            for numbers in zip(*((tree.start, len(tree)) for tree in bucket), strict=True)
        )
        columns = torch.arange(len(bucket[0]), device=positions.device)
        inside = columns < lengths[:, None]
        places = (starts[:, None] + columns) * inside
        depths = positions[places] * inside
        found.append(Block(places=places, lengths=lengths, depths=depths))
    return found


def is_cheaper(tree: int, rows: Sequence[int]) -> bool:
    """Whether attention within a tree of a number of tokens costs less than within its rows."""
    return tree <= WIDEST_TREE and tree**2 < sum(row**2 for row in rows)


def by_size(members: Sequence[Places]) -> Iterator[list[Places]]:
    """Yields buckets, longest first; each member has at least half the size of the longest."""
    bucket: list[Places] = []
    for member in sorted(members, key=len, reverse=True):
        if bucket and 2 * len(member) < len(bucket[0]):
            yield bucket
            bucket = []
        bucket.append(member)
    if bucket:
        yield bucket
