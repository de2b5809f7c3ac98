"""Blocks of a packed sequence: which tokens each token sees, and the way back."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.training.blocks import (
    Block,
    Blocks,
    ancestors,
    attention_blocks,
    by_size,
    is_cheaper,
    row_blocks,
)
from steer_lightning.training.packing import share_beginnings

CPU = torch.device("cpu")


def blocks_of(texts: list[list[int]], groups: list[int]) -> tuple[list[list[int]], list[Block]]:
    _, positions, rows = share_beginnings(texts, groups)
    return rows, attention_blocks(rows, groups, torch.tensor(positions))


def tree_of(texts: list[list[int]]) -> tuple[list[list[int]], Block]:
    ids, positions, rows = share_beginnings(texts, [0] * len(texts))
    places, lengths = torch.arange(len(ids))[None], torch.tensor([len(ids)])
    return rows, Block(places=places, lengths=lengths, depths=torch.tensor([positions]))


def test_ancestors_by_hand() -> None:
    # the texts a b c, a b d e and a f; depths of a, b, c, d, e, f
    seen = ancestors(torch.tensor([[0, 1, 2, 2, 3, 1]]))
    assert [[j for j in range(6) if seen[0, i, j]] for i in range(6)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
        [0, 5],
    ]


def test_each_token_sees_its_own_text() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = [
        [7, *torch.randint(2, (int(size),), generator=generator).tolist()]
        for size in torch.randint(1, 6, (40,), generator=generator)
    ]
    rows, tree = tree_of(texts)
    mask = tree.mask(None)
    assert mask is not None
    found = {place: seen.nonzero().flatten().tolist() for place, seen in enumerate(mask[0, 0])}
    assert found == {row[k]: row[: k + 1] for row in rows for k in range(len(row))}


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_counts_tokens_of_the_text(window: int) -> None:
    texts = [[1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 5, 7]]
    rows, tree = tree_of(texts)
    mask = tree.mask(window)
    assert mask is not None
    for row in rows:
        for k, place in enumerate(row):
            seen = mask[0, 0, place].nonzero().flatten().tolist()
            assert seen == row[max(0, k + 1 - window) : k + 1]


def test_rows_need_a_mask_for_a_window_only() -> None:
    (block,) = row_blocks([[0, 1, 2]], CPU)
    assert block.mask(None) is None
    assert block.mask(3) is None
    found = block.mask(2)
    assert found is not None
    assert found.tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_groups_are_trees_where_that_is_cheaper() -> None:
    shared = [[1, 2, 3, 4, n] for n in range(4)]  # a tree of 8 tokens, four rows of 5
    apart = [[n, n, n, n, n] for n in range(4)]  # a tree of 20 tokens
    rows, blocks = blocks_of([*shared, *apart], [0] * 4 + [1] * 4)
    by_rows, trees = blocks
    assert trees.places.tolist() == [list(range(8))]
    assert trees.depths is not None
    assert trees.depths.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4]]
    assert sorted(by_rows.places.tolist()) == sorted(rows[4:])


@pytest.mark.parametrize(
    ("tree", "rows", "answer"),
    [(8, [5] * 4, True), (10, [5] * 4, False), (256, [200] * 8, True), (257, [200] * 8, False)],
)
def test_is_cheaper(tree: int, rows: list[int], answer: bool) -> None:
    assert is_cheaper(tree, rows) == answer


def test_padding_sees_itself_and_nobody_sees_it() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 3, 5], [6, 7, 8], [6, 7, 8]]
    _, (block,) = blocks_of(texts, [0, 0, 1, 1])
    mask = block.mask(None)
    assert mask is not None
    assert block.lengths.tolist() == [5, 3]
    assert mask[1, 0].tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [False, False, False, True, False],
        [False, False, False, False, True],
    ]


def test_the_way_back_leaves_padding_out() -> None:
    rows = [[0, 1, 2], [0, 1, 3, 4], [5, 6]]
    blocks = Blocks(row_blocks(rows, CPU), num_tokens=7)
    outputs = [block.places.flatten() * 10 for block in blocks.all]
    assert len(outputs) == 1, "padding, which has place 0, lies behind the real tokens"
    assert blocks.put_back(outputs).tolist() == [[0, 10, 20, 30, 40, 50, 60]]
    # a token that rows share comes from the last row that holds it
    numbered = [torch.arange(12)]
    assert blocks.put_back(numbered).tolist() == [[4, 5, 6, 2, 3, 8, 9]]


def test_buckets_hold_members_of_similar_size() -> None:
    rows = [[0] * length for length in (3, 10, 4, 9, 1, 5)]
    found = [[len(row) for row in bucket] for bucket in by_size(rows)]
    assert found == [[10, 9, 5], [4, 3], [1]]
    assert list(by_size([])) == []
