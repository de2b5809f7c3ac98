"""Changes of an MLP's output, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.results.lens.mlp_change import MlpChange, against_vector, joined, relative

FOUND = MlpChange(
    base=torch.tensor([[3.0, 4.0], [0.0, 10.0]]),
    change=torch.tensor([[0.0, 5.0], [-2.0, 0.0]]),
    vector=torch.tensor([[2.0, 2.0], [2.0, 2.0]]),
)


def test_the_change_against_the_output_and_the_vector() -> None:
    assert relative(FOUND) == pytest.approx((5 / 5 + 2 / 10) / 2)
    found = against_vector(FOUND)
    norm = math.sqrt(8)
    assert found["size"] == pytest.approx((5 + 2) / norm / 2)
    assert found["along"] == pytest.approx((10 - 4) / 8 / 2)
    assert found["cosine"] == pytest.approx((math.sqrt(0.5) - math.sqrt(0.5)) / 2, abs=1e-6)


@pytest.mark.parametrize("times", [1.0, -1.0, 0.5])
def test_a_vector_that_is_added_again_or_cancelled(times: float) -> None:
    vector = torch.tensor([1.0, -2.0, 0.5])
    added = torch.tensor([[1.0], [0.25]]) * vector  # with gates
    found = against_vector(MlpChange(base=torch.ones(2, 3), change=times * added, vector=added))
    assert found["along"] == pytest.approx(times)
    assert found["cosine"] == pytest.approx(math.copysign(1, times))
    assert found["size"] == pytest.approx(abs(times))


def test_tokens_count_by_their_gates() -> None:
    """Gates of 2 and 1/2 on (1, 0): the changes along it are once and three times what it adds."""
    vector = torch.tensor([[2.0, 0.0], [0.5, 0.0]])
    change = torch.tensor([[2.0, 0.0], [1.5, 2.0]])
    found = against_vector(MlpChange(base=torch.ones(2, 2), change=change, vector=vector))
    assert found["along"] == pytest.approx((2 * 2 + 1.5 * 0.5) / (4 + 0.25))
    assert found["size"] == pytest.approx((2 + 2.5) / (2 + 0.5))
    assert found["cosine"] == pytest.approx((1 + 1.5 / 2.5) / 2)


def test_tokens_without_an_output_or_a_change_are_left_out() -> None:
    one = torch.tensor([[1.0, 1.0]])
    still = MlpChange(base=torch.tensor([[0.0, 0.0]]), change=one, vector=one)
    assert relative(still) == 0
    assert relative(joined([FOUND, still])) == relative(FOUND)
    change = torch.tensor([[0.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    vector = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    found = against_vector(MlpChange(base=torch.ones(3, 2), change=change, vector=vector))
    assert found == {"size": 2.0, "along": 1.5, "cosine": 1.0}
    nothing = MlpChange(base=torch.ones(1, 2), change=torch.zeros(1, 2), vector=torch.zeros(1, 2))
    assert against_vector(nothing) == {"size": 0.0, "along": 0.0, "cosine": 0.0}
    unknown = MlpChange(base=torch.ones(1, 2), change=torch.ones(1, 2))
    assert against_vector(unknown) == {"size": None, "along": None, "cosine": None}
