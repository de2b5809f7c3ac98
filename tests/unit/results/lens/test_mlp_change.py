"""Changes of an MLP's output, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.results.lens.mlp_change import MlpChange, against_vector, joined, relative

FOUND = MlpChange(
    base=torch.tensor([[3.0, 4.0], [0.0, 10.0]]), change=torch.tensor([[0.0, 5.0], [-2.0, 0.0]])
)


def test_the_change_against_the_output_and_the_vector() -> None:
    assert relative(FOUND) == pytest.approx((5 / 5 + 2 / 10) / 2)
    found = against_vector(FOUND, torch.tensor([2.0, 2.0]))
    norm = math.sqrt(8)
    assert found["size"] == pytest.approx((5 + 2) / norm / 2)
    assert found["along"] == pytest.approx((10 - 4) / 8 / 2)
    assert found["cosine"] == pytest.approx((math.sqrt(0.5) - math.sqrt(0.5)) / 2, abs=1e-6)


@pytest.mark.parametrize("times", [1.0, -1.0, 0.5])
def test_a_vector_that_is_added_again_or_cancelled(times: float) -> None:
    vector = torch.tensor([1.0, -2.0, 0.5])
    twice = MlpChange(base=torch.ones(2, 3), change=times * vector.expand(2, 3))
    found = against_vector(twice, vector)
    assert found["along"] == pytest.approx(times)
    assert found["cosine"] == pytest.approx(math.copysign(1, times))
    assert found["size"] == pytest.approx(abs(times))


def test_tokens_without_an_output_or_a_change_are_left_out() -> None:
    still = MlpChange(base=torch.tensor([[0.0, 0.0]]), change=torch.tensor([[1.0, 1.0]]))
    assert relative(still) == 0
    assert relative(joined([FOUND, still])) == relative(FOUND)
    rest = MlpChange(base=torch.ones(2, 2), change=torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    found = against_vector(rest, torch.tensor([0.0, 1.0]))
    assert found == {"size": 1.5, "along": 1.5, "cosine": 1.0}
