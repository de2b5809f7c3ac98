"""Directions of vectors, by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.results.lens import cosines, singular_values, stable_rank


def test_cosines_by_hand() -> None:
    found = cosines(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2e30]]))
    expected = torch.tensor([[0.96, 0.8], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_singular_values_and_stable_rank_by_hand() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    matrix = torch.tensor([[3.0, 0.0], [0.0, 4.0]]) @ turn
    assert singular_values(matrix).tolist() == pytest.approx([4.0, 3.0])
    assert stable_rank(matrix) == pytest.approx(25 / 16)
    assert stable_rank(torch.tensor([[1.0, 2.0], [-3.0, -6.0]])) == pytest.approx(1)
    assert stable_rank(5 * torch.eye(3, 7)) == pytest.approx(3)
    assert stable_rank(torch.zeros(2, 5)) == 0
