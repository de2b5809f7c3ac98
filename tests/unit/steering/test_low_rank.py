"""Mixtures of few directions, by hand."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from steer_lightning import ConfigError, save_vectors
from steer_lightning.model.policy import Policy
from steer_lightning.steering import LowRankVectors
from steer_lightning.testing import save_tiny


def test_a_mixture_by_hand() -> None:
    vectors = LowRankVectors(rank=2).shaped(3, 4)
    assert vectors.num_trained == 4 * 2 + 2 * 3
    assert (vectors.vectors == 0).all()
    # profiles over 4 layers: constant, and half a cosine; their mean square is 1 / rank
    half = [math.cos(math.pi * (layer + 0.5) / 4) for layer in range(4)]
    expected = torch.tensor([[math.sqrt(0.5)] * 4, half]).T
    torch.testing.assert_close(vectors.scales.data, expected)
    torch.testing.assert_close(vectors.scales.data.pow(2).mean(0), torch.tensor([0.5, 0.5]))
    vectors.scales.data = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, -1]])
    vectors.directions.data = torch.tensor([[1.0, 2, 3], [10, 20, 30]])
    vectors.set_unit(torch.tensor([1.0, 1, 2, 1]))
    assert vectors.vectors.tolist() == [[1, 2, 3], [10, 20, 30], [22, 44, 66], [-8, -16, -24]]
    assert vectors.plain(2, 0.5).tolist() == [11, 22, 33]


def test_rank_1_is_one_shared_vector_with_a_scale_a_layer() -> None:
    vectors = LowRankVectors().shaped(8, 5)
    assert torch.equal(vectors.scales.data, torch.ones(5, 1))
    assert vectors.num_trained == 5 + 8
    vectors = LowRankVectors(layers=[2], directions="random").shaped(8, 5)
    assert vectors.num_trained == 1
    assert [name for name, _ in vectors.named_parameters()] == ["scales"]
    again = LowRankVectors(directions="random").shaped(8, 5)
    assert torch.equal(vectors.directions, again.directions)
    assert "directions" in vectors.state_dict(), "a checkpoint knows them, whatever draws them"


def test_a_start_is_the_nearest_mixture(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    shared = torch.randn(5, 1) @ torch.randn(1, 8)
    for rank, plain, exact in ((1, shared, True), (2, torch.randn(5, 8), False)):
        path = tmp_path / f"{rank}.safetensors"
        save_vectors(plain, path, base_model="b")
        vectors = LowRankVectors(rank=rank, init_from=str(path)).shaped(8, 5)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            vectors._start_from(str(path), "b")
            vectors._start_in_units(plain)
        left, sizes, right = torch.linalg.svd(plain)
        nearest = left[:, :rank] @ torch.diag(sizes[:rank]) @ right[:rank]
        torch.testing.assert_close(vectors.vectors.detach(), nearest, atol=1e-5, rtol=1e-4)
        assert ("of the norm of the vectors is kept" in caplog.text) != exact
    fixed = LowRankVectors(rank=3, directions="random").shaped(8, 5)
    mixture = torch.randn(5, 3) @ fixed.directions
    fixed.set_vectors(mixture)
    torch.testing.assert_close(fixed.vectors.detach(), mixture, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank = 0.*at least 1"),
        ({"rank": 4}, r"rank = 4.*at most 3.*steering\.layers = 'all' means 3 vectors of width 32"),
        ({"rank": 2, "layers": [1]}, r"rank = 2.*at most 1.*steering\.layers = \[1\]"),
    ],
)
def test_a_rank_without_use_is_refused_before_the_weights_are_read(
    tmp_path, settings, message
) -> None:
    folder = save_tiny(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=message):
        Policy(folder, steering=LowRankVectors(**settings)).load()
