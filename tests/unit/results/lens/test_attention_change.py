"""How much attention moves, and where to, by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.results.lens.attention_change import (
    PLACES,
    AttentionChange,
    key_sets,
    moved,
    variation,
)

BASE = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]])
STEERED = torch.tensor([[[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.6, 0.1, 0.3]]])


def test_the_share_of_attention_that_has_moved() -> None:
    # 0.25 from the second token to the first; 0.4 to the first, from the two others
    torch.testing.assert_close(variation(BASE, STEERED), torch.tensor([[0.0, 0.25, 0.4]]))
    torch.testing.assert_close(variation(STEERED, BASE), torch.tensor([[0.0, 0.25, 0.4]]))
    apart = torch.eye(3)[None], torch.eye(3).flip(1)[None]
    assert variation(*apart).tolist() == [[1.0, 0.0, 1.0]], "all of it, at most"


def test_what_a_sink_takes_is_a_key() -> None:
    base, steered = torch.tensor([[[0.5]], [[0.25]]]), torch.tensor([[[0.25]], [[0.25]]])
    assert variation(base, steered).tolist() == [[0.25], [0.0]]
    # 0.1 goes to a sink, and 0.1 from one key to the other
    base, steered = torch.tensor([[[0.6, 0.4]]]), torch.tensor([[[0.4, 0.5]]])
    torch.testing.assert_close(variation(base, steered), torch.tensor([[0.2]]))


def test_what_sets_of_keys_gain() -> None:
    sets = key_sets(["12", " +", "x"])
    assert tuple(sets) == PLACES
    gains = {name: moved(BASE, STEERED, keys)[0].tolist() for name, keys in sets.items()}
    expected = {
        "first": [0.0, 0.25, 0.4],
        "previous": [0.0, 0.25, -0.2],
        "own": [0.0, -0.25, -0.2],
        "digits": [0.0, 0.25, 0.4],
        "operators": [0.0, -0.25, -0.2],
    }
    torch.testing.assert_close(gains, expected)


def test_kinds_of_tokens() -> None:
    sets = key_sets(["7", " 47", "4a", "\u00d7", "->", "", " "])
    assert sets["digits"][0].tolist() == [True, True, False, False, False, False, False]
    assert sets["operators"][6].tolist() == [False, False, False, True, True, False, False]


def test_means_are_over_the_queries_that_count_of_all_texts() -> None:
    """Two queries of the first text, with 0.25 and 0.4, and one of the second, with 0.4."""
    found, sets = AttentionChange(), key_sets(["12", " +", "x"])
    found.add(BASE, STEERED, sets, torch.tensor([False, True, True]))
    found.add(BASE, STEERED, sets, torch.tensor([False, False, True]))
    share, gains = found.means()
    assert share.tolist() == pytest.approx([(0.25 + 0.4 + 0.4) / 3])
    assert tuple(gains) == PLACES
    assert gains["digits"].tolist() == pytest.approx([(0.25 + 0.4 + 0.4) / 3])
    assert gains["previous"].tolist() == pytest.approx([(0.25 - 0.2 - 0.2) / 3])
