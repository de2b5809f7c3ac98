"""Vectors from a few numbers, through a projection that never changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.steering import ProjectedVectors, load_steering, site_vectors
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS


def test_vectors_by_hand() -> None:
    vectors = ProjectedVectors(count=4, scale="none").shaped(2, 2)
    assert vectors.num_trained == 4
    assert torch.equal(vectors.vectors, torch.zeros(2, 2))
    with torch.no_grad():
        # the root of k is part of it: P / sqrt(4)
        vectors.projection.zero_()
        vectors.projection[0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) / 2
        vectors.projection[3] = torch.tensor([[0.0, -2.0], [0.0, 8.0]]) / 2
        vectors.numbers.copy_(torch.tensor([2.0, 9.0, 9.0, 1.0]))
    vectors.set_unit(torch.tensor([1.0, 10.0]))
    # 2 * (1, 2) / 2 + (0, -2) / 2 and 10 * (2 * (3, 4) / 2 + (0, 8) / 2)
    assert vectors.vectors.tolist() == [[1.0, 1.0], [30.0, 80.0]]
    vectors.plain(1).sum().backward()
    assert vectors.numbers.grad.tolist() == [35.0, 0.0, 0.0, 40.0]


def test_the_size_does_not_depend_on_how_many_numbers_there_are() -> None:
    for count in (1, 13, 200):
        vectors = ProjectedVectors(count=count).shaped(512, 8)
        with torch.no_grad():
            vectors.numbers.fill_(0.5)
        assert float(vectors.vectors.detach().std()) == pytest.approx(0.5, rel=0.05)


def test_the_seed_decides_and_as_many_numbers_as_the_vectors_have_restrict_nothing() -> None:
    one, same = (ProjectedVectors(count=6, seed=1).shaped(3, 2) for _ in range(2))
    other = ProjectedVectors(count=6, seed=2).shaped(3, 2)
    assert torch.equal(one.projection, same.projection)
    assert not torch.equal(one.projection, other.projection)
    wanted = torch.randn(2, 3)
    one.set_vectors(wanted)
    torch.testing.assert_close(one.vectors.detach(), wanted, rtol=1e-3, atol=1e-4)


def test_the_result_is_plain_vectors(tmp_path: Path) -> None:
    model, vectors = tiny_model("qwen2"), ProjectedVectors()
    base = model(IDS).logits
    vectors.build(model)
    with attach(model, vectors):
        assert torch.equal(model(IDS).logits, base)
        vectors.numbers.data.normal_()
        expected = model(IDS).logits
    path = tmp_path / vectors.file_name
    vectors.save(path, base_model="b")
    loaded = load_steering(path)
    assert type(loaded).__name__ == "SteeringVectors"
    with attach(model, path):
        assert torch.equal(model(IDS).logits, expected)
    again = ProjectedVectors(init_from=str(path))
    again.build(model)
    torch.testing.assert_close(again.numbers.detach(), vectors.numbers.detach())
    assert "projected from 13 numbers" in vectors.describe()


def uneven_units(
    vectors: ProjectedVectors, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_vectors, "measure_rms", lambda *_: torch.tensor([10.0, 30.0, 100.0]))
    vectors.build(model)
    vectors.measure(model, [(IDS, torch.ones_like(IDS))])


def test_a_result_comes_back_in_units_that_differ_by_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, vectors, path = tiny_model("qwen2"), ProjectedVectors(scale="rms"), tmp_path / "v"
    uneven_units(vectors, model, monkeypatch)
    vectors.numbers.data.normal_()
    vectors.save(path, base_model="b")
    again = ProjectedVectors(scale="rms", init_from=str(path))
    uneven_units(again, model, monkeypatch)
    torch.testing.assert_close(again.numbers.detach(), vectors.numbers.detach())
    assert "is kept" not in caplog.text
    other = ProjectedVectors(scale="rms", seed=1, init_from=str(path))
    uneven_units(other, model, monkeypatch)
    # the nearest in units: what is left is orthogonal to all that the numbers can make
    found, wanted = (v.vectors.detach() / v.unit[:, None] for v in (other, vectors))
    left = (other.projection * (wanted - found)).sum((1, 2))
    torch.testing.assert_close(left, torch.zeros(13), atol=1e-4, rtol=0)
    share = 100 * float(found.norm() / wanted.norm())
    assert share < 90
    assert f"{share:.1f} % of the norm of the vectors is kept" in caplog.text


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.steering\.count = 0: must be at least 1"):
        ProjectedVectors(count=0)
    with pytest.raises(ConfigError, match=r"count = 7: must be at most 6: .* 2 vectors of width 3"):
        ProjectedVectors(count=7).shaped(3, 2)
    # 2^30 / (2 * 2^20) = 512 rows; nothing is allocated before the check
    with pytest.raises(ConfigError, match=r"count = 513: must be at most 512 for 2 vectors of wid"):
        ProjectedVectors(count=513).shaped(2**20, 2)


def test_a_checkpoint_holds_a_sample_of_the_projection_by_which_it_is_known() -> None:
    vectors = ProjectedVectors(count=50).shaped(40, 6)
    vectors.numbers.data.normal_()
    state = vectors.state_dict()
    assert "projection" not in state
    assert 64 <= state["sample"].numel() < 128
    again = ProjectedVectors(count=50).shaped(40, 6)
    again.load_state_dict(state)
    assert torch.equal(again.vectors, vectors.vectors)
    assert vectors.facts()["model.steering.seed"] == 0
    # other processors may round the same draw otherwise
    again.load_state_dict({**state, "sample": state["sample"] * (1 + 1e-6)})
    for other in (ProjectedVectors(count=50, seed=1).shaped(40, 6), again):
        sample = state["sample"] if other is not again else state["sample"] * torch.nan
        with pytest.raises(ConfigError, match=r"seed = [01]: draws another projection here"):
            other.load_state_dict({**state, "sample": sample})
