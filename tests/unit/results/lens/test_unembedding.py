"""Tokens that vectors point to, by hand and in chunks."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.results.lens import rank_tokens, unembedding

WORDS = torch.tensor([[1.0, 0.0], [10.0, 10.0], [0.0, -2.0], [0.0, 0.0], [-3.0, 0.0]])


@pytest.mark.parametrize("numbers", [1, 9, 2**24])  # rows at once: 1, 2 and all
def test_tokens_by_hand_in_chunks_of_any_size(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unembedding, "CHUNK_NUMBERS", numbers)
    found = rank_tokens(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), WORDS, 2)
    assert found["dot"].top.ids.tolist()[0] == [1, 0]
    assert found["dot"].top.scores.tolist() == [[10, 1], [20, 0]]
    assert found["dot"].bottom.ids[:, 0].tolist() == [4, 2]
    assert found["dot"].bottom.scores.tolist()[1] == [-4, 0]
    assert found["cosine"].top.ids.tolist()[0] == [0, 1]
    half = math.sqrt(0.5)
    assert found["cosine"].top.scores.tolist()[0] == pytest.approx([1, half])
    assert found["cosine"].bottom.scores[:, 0].tolist() == [-1, -1]
    assert found["cosine"].bottom.ids[:, 0].tolist() == [4, 2]


def test_chunks_find_what_the_whole_product_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    words, vectors = torch.randn(1000, 16), torch.randn(5, 16)
    expected = (vectors @ words.T).sort(1, descending=True)
    monkeypatch.setattr(unembedding, "CHUNK_NUMBERS", 21 * 37)
    found = rank_tokens(vectors, words, 20)["dot"]
    torch.testing.assert_close(found.top.scores, expected.values[:, :20])
    assert torch.equal(found.top.ids, expected.indices[:, :20])
    assert torch.equal(found.bottom.ids, expected.indices.flip(1)[:, :20])
    assert rank_tokens(vectors, words[:3], 20)["cosine"].top.ids.shape == (5, 3)
    rough = rank_tokens(vectors, words.bfloat16(), 1)["dot"].top
    assert rough.scores.dtype == torch.float32
    assert torch.equal(rough.ids, found.top.ids[:, :1])
