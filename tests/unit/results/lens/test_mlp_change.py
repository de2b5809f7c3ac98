"""Changes of an MLP's output, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.results.lens.mlp_change import MlpChange

Rows = list[list[float]]


def changed(base: Rows, change: Rows, vector: Rows | None = None) -> MlpChange:
    found = MlpChange()
    tensors = torch.tensor(base), torch.tensor(change)
    found.add(tensors[0], sum(tensors), None if vector is None else torch.tensor(vector))
    return found


BASE, CHANGE, VECTOR = [[3.0, 4.0], [0.0, 10.0]], [[0.0, 5.0], [-2.0, 0.0]], [[2.0, 2.0]] * 2


def test_the_change_against_the_output_and_the_vector() -> None:
    change = changed(BASE, CHANGE, VECTOR)
    assert change.relative() == pytest.approx((5 / 5 + 2 / 10) / 2)
    assert change.mean().tolist() == [-1, 2.5]
    found, norm = change.against_vector(), math.sqrt(8)
    assert found["size"] == pytest.approx((5 + 2) / norm / 2)
    assert found["along"] == pytest.approx((10 - 4) / 8 / 2)
    assert found["cosine"] == pytest.approx((math.sqrt(0.5) - math.sqrt(0.5)) / 2, abs=1e-6)


def test_texts_add_up_to_the_figures_of_all_their_tokens() -> None:
    """A text of one token weighs a third of the one of three tokens."""
    rows = [torch.randn(4, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    whole, parts = MlpChange(), MlpChange()
    whole.add(*rows)
    for tokens in (slice(0, 1), slice(1, 4)):
        parts.add(*(x[tokens] for x in rows))
    assert parts.relative() == pytest.approx(whole.relative())
    assert parts.against_vector() == pytest.approx(whole.against_vector())
    torch.testing.assert_close(parts.mean(), (rows[1] - rows[0]).mean(0))


@pytest.mark.parametrize("times", [1.0, -1.0, 0.5])
def test_a_vector_that_is_added_again_or_cancelled(times: float) -> None:
    added = torch.tensor([[1.0], [0.25]]) * torch.tensor([1.0, -2.0, 0.5])  # with gates
    found = changed([[1.0] * 3] * 2, (times * added).tolist(), added.tolist()).against_vector()
    assert found["along"] == pytest.approx(times)
    assert found["cosine"] == pytest.approx(math.copysign(1, times))
    assert found["size"] == pytest.approx(abs(times))


def test_tokens_count_by_their_gates() -> None:
    """Gates of 2 and 1/2 on (1, 0): the changes along it are once and three times what it adds."""
    found = changed(BASE, [[2.0, 0.0], [1.5, 2.0]], [[2.0, 0.0], [0.5, 0.0]]).against_vector()
    assert found["along"] == pytest.approx((2 * 2 + 1.5 * 0.5) / (4 + 0.25))
    assert found["size"] == pytest.approx((2 + 2.5) / (2 + 0.5))
    assert found["cosine"] == pytest.approx((1 + 1.5 / 2.5) / 2)


def test_tokens_without_an_output_or_a_change_are_left_out() -> None:
    assert changed([[0.0, 0.0]], [[1.0, 1.0]]).relative() == 0
    assert changed([*BASE, [0.0, 0.0]], [*CHANGE, [1.0, 1.0]]).relative() == pytest.approx(0.6)
    change, vector = [[0.0, 0.0], [0.0, 3.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    found = changed([[1.0, 1.0]] * 3, change, vector).against_vector()
    assert found == {"size": 2.0, "along": 1.5, "cosine": 1.0}
    nothing = changed([[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]).against_vector()
    assert nothing == {"size": 0.0, "along": 0.0, "cosine": 0.0}
    unknown = changed(BASE, CHANGE).against_vector()
    assert unknown == {"size": None, "along": None, "cosine": None}
