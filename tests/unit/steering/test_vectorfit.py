"""VectorFit: singular values by hand, and matrices that are decomposed once."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.steering import VectorFit
from steer_lightning.testing import tiny_policy
from tests.unit.steering.helpers import IDS, disturb


def disturbed() -> Policy:
    policy = tiny_policy("qwen2", VectorFit())
    disturb(policy.steering)
    return policy


def test_a_change_by_hand() -> None:
    """W = U diag(3, 2) V^T with U a turn by 90 degrees: d = (0.5, -1) makes diag(3.5, 1) of it."""
    kind, turn = VectorFit(), torch.tensor([[0.0, -1], [1, 0]])
    weight = turn @ torch.diag(torch.tensor([3.0, 2]))
    found = weight + kind.change(torch.tensor([0.5, -1]), kind.prepared("w", weight))
    torch.testing.assert_close(found, torch.tensor([[0.0, -1], [3.5, 0]]))
    bias = torch.tensor([1.0, 2])
    assert kind.prepared("b", bias) == ()
    assert kind.change(bias, ()) is bias


def test_matrices_and_biases_of_the_layers_alone_are_chosen() -> None:
    """Qwen2 has 7 matrices and 3 biases a layer; the embeddings, head and norms stay."""
    names = disturbed().steering.names
    assert len(names) == 3 * (7 + 3)
    assert all(name.startswith("model.layers.") for name in names)
    assert not any("norm" in name for name in names)


def test_a_decomposition_made_in_a_rollout_lets_gradients_through() -> None:
    """Rollouts run in inference mode, and are the first to need it."""
    policy = disturbed()
    with torch.inference_mode(), policy.constant_vectors():
        policy.model(IDS)
    policy.model(IDS).logits.square().mean().backward()
    gradients = [parameter.grad for parameter in policy.steering.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_matrices_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = disturbed()
    sizes = []
    svd = torch.linalg.svd

    def counted(matrix: torch.Tensor, full_matrices: bool) -> object:
        sizes.append(matrix.shape)
        return svd(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    for _ in range(2):
        policy.model(IDS)
        policy.model.double()
        policy.model(IDS)
    assert len(sizes) == 3 * 7, "3 layers of 7 matrices"
