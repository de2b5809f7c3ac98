"""A model that moves after something was attached to it, as Lightning moves it to a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.steering import (
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    LowRankVectors,
    Steering,
    SteeringVectors,
    VectorFit,
)
from steer_lightning.testing import tiny_policy

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
KINDS: dict[str, Callable[[], Steering]] = {
    "vectors": SteeringVectors,
    "prompts alone": partial(SteeringVectors, tokens="prompt", site="mlp_output"),
    "gated": AdaptiveVectors,
    "mixtures": LowRankVectors,
    "fixed directions": partial(LowRankVectors, directions="random"),
    "lora": LoRA,
    "biases": BitFit,
    "singular values": VectorFit,
    "full": FullFinetune,
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def disturbed(kind: str) -> Policy:
    """A policy on the CPU, with something learned that acts on it."""
    policy = tiny_policy("qwen2", KINDS[kind]())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.steering.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.03)
    return policy


@by_kind
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_policy_runs_where_it_was_moved_to(kind: str, is_used_before: bool, device: str) -> None:
    """The meta device is another one than the CPU: torch refuses a product of the two."""
    policy = disturbed(kind)
    if is_used_before:
        policy.model(IDS)
    policy.to(device)
    assert policy.model(IDS.to(device)).logits.device.type == device


@by_kind
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_moved_policy_computes_what_one_that_was_always_there_does(
    kind: str, is_used_before: bool
) -> None:
    """Another data type stands for another device: `Module.to` treats them alike."""
    policy = disturbed(kind)
    other = Policy("tiny", steering=KINDS[kind]())
    other.tokenizer = policy.tokenizer
    model = tiny_policy("qwen2").model
    other.adopt(model.double())
    other.steering.load_state_dict(policy.steering.state_dict())
    other.model.double()  # what LoRA has put there, too
    if is_used_before:
        policy.model(IDS)
    policy.model.double()
    found, expected = policy.model(IDS).logits, other.model(IDS).logits
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)
    with torch.inference_mode(), policy.constant_vectors():
        torch.testing.assert_close(policy.model(IDS).logits, expected, atol=1e-6, rtol=0)
    for parameter in policy.steering.parameters():
        parameter.data.mul_(2)
    assert not torch.equal(policy.model(IDS).logits, expected), "still the ones that are trained"


def test_a_decomposition_made_in_a_rollout_lets_gradients_through() -> None:
    """Rollouts run in inference mode, and are the first to need it."""
    policy = disturbed("singular values")
    with torch.inference_mode(), policy.constant_vectors():
        policy.model(IDS)
    policy.model(IDS).logits.square().mean().backward()
    gradients = [parameter.grad for parameter in policy.steering.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_matrices_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = disturbed("singular values")
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
