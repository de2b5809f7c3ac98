"""The vectors of the paper: rows of one padded parameter, in units of the stream."""

from __future__ import annotations

import torch

from steer_lightning import attach
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS


def test_rows_are_padded_to_whole_blocks() -> None:
    for width, padded in ((1, 256), (256, 256), (257, 512)):
        vectors = SteeringVectors().shaped(width, 3)
        assert vectors.weight.shape == (3, padded)
        assert vectors.num_trained == 3 * width
        assert not vectors.weight.any()


def test_a_vector_is_its_unit_times_its_row() -> None:
    vectors = SteeringVectors([0, 2]).shaped(3, 4)
    vectors.set_unit(torch.tensor([2.0, 10.0]))
    vectors.weight.data[:, :3] = torch.tensor([[1.0, 2, 3], [-1, 0, 0.5]])
    assert vectors.vectors.tolist() == [[2, 4, 6], [-10, 0, 5]]
    assert vectors.plain(1).tolist() == [-10, 0, 5]
    assert vectors.plain(0, scale=0.5).tolist() == [1, 2, 3]
    vectors.set_vectors(torch.tensor([[8.0, 0, 0], [0, 5, 0]]))
    assert vectors.weight[:, :3].tolist() == [[4, 0, 0], [0, 0.5, 0]]


def test_the_padding_gets_no_gradient() -> None:
    model, vectors = tiny_model("llama"), SteeringVectors()
    with attach(model, vectors):
        model(IDS).logits.square().mean().backward()
    gradient = vectors.weight.grad
    assert gradient is not None
    assert bool(gradient[:, :32].all())
    assert not gradient[:, 32:].any()
