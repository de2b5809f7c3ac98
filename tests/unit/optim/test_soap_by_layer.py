"""SOAP with each layer alone, against the library's SOAP on single vectors."""

from __future__ import annotations

import copy
import sys
from importlib import import_module, reload

import pytest
import torch
from pytorch_optimizer import SOAP
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import state_facts
from steer_lightning.optim.soap_by_layer import SOAPByLayer
from steer_lightning.steering import SteeringVectors

STEPS = 12  # Q is set up in step 1 and brought up to date in step 11


def gradients(vectors: SteeringVectors, seed: int = 0) -> torch.Tensor:
    """Made-up gradients (steps, L, D padded), 0 in the padding."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(STEPS, *vectors.weight.shape, generator=generator)
    found[..., vectors.width :] = 0
    return found


def train(vectors: SteeringVectors, rows: torch.Tensor) -> SOAPByLayer:
    optimizer = SOAPByLayer([vectors.weight], lr=0.1)
    for gradient in rows:
        vectors.weight.grad = gradient.clone()
        optimizer.step()
    return optimizer


def test_it_is_the_librarys_soap_on_each_vector() -> None:
    vectors = SteeringVectors().shaped(24, 3)
    rows = gradients(vectors)
    optimizer = train(vectors, rows)
    for layer in range(3):
        alone = nn.Parameter(torch.zeros(256))
        single = SOAP([alone], lr=0.1, weight_decay=0.0, precondition_1d=True)
        for gradient in rows:
            alone.grad = gradient[layer].clone()
            single.step()
        assert torch.equal(alone, vectors.weight[layer])
    assert (vectors.weight[:, 24:] == 0).all()
    assert vectors.vectors.pow(2).mean() > 0.01
    # momentum and second moments, C and Q of each row, with its padding
    assert state_facts(optimizer) == (3 * 4 * (2 * 256 + 2 * 256**2), ["float32"])


def test_layers_do_not_influence_each_other() -> None:
    plain, other = SteeringVectors().shaped(24, 3), SteeringVectors().shaped(24, 3)
    rows = gradients(plain)
    train(plain, rows)
    rows[:, 1] = gradients(plain, seed=1)[:, 1]
    train(other, rows)
    same = [torch.equal(a, b) for a, b in zip(plain.vectors, other.vectors, strict=True)]
    assert same == [True, False, True]


def test_soap_on_the_stack_mixes_layers_and_leaves_the_padding() -> None:
    found = []
    for seed in (0, 1):
        vectors = SteeringVectors().shaped(24, 3)
        optimizer = SOAP([vectors.weight], lr=0.1, weight_decay=0.0)
        rows = gradients(vectors)
        rows[:, 1] = gradients(vectors, seed)[:, 1]
        for gradient in rows:
            vectors.weight.grad = gradient.clone()
            optimizer.step()
        assert (vectors.weight[:, 24:] == 0).all()
        found.append(vectors.vectors)
    assert not torch.equal(found[0][0], found[1][0])


def test_the_first_steps_by_hand() -> None:
    # along its only eigenvector, and for the sign of the others' zeros, SOAP is Adam: with betas of
    # 0 a step of the rate in the direction of the gradient, after a first step that sets Q up
    weight = nn.Parameter(torch.tensor([[2.0, 0.0]]))
    optimizer = SOAPByLayer([weight], lr=0.1, betas=(0.0, 0.0), weight_decay=0.5)
    weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    assert weight.tolist() == [[2.0, 0.0]]
    optimizer.step()
    moved = torch.tensor([2.0 - 0.1 * 0.6, -0.1 * 0.8]) * (1 - 0.1 * 0.5)
    assert weight[0].tolist() == pytest.approx(moved.tolist(), abs=1e-3)


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    vectors, again = SteeringVectors().shaped(24, 2), SteeringVectors().shaped(24, 2)
    rows = gradients(vectors)
    optimizer = train(vectors, rows[:7])
    again.load_state_dict(vectors.state_dict())
    restored = SOAPByLayer([again.weight], lr=0.3)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in rows[7:]:
        for kind, steps in ((vectors, optimizer), (again, restored)):
            kind.weight.grad = gradient.clone()
            steps.step()
    assert torch.equal(vectors.weight, again.weight)


def test_it_follows_a_parameter_to_other_memory() -> None:
    weight = nn.Parameter(torch.zeros(1, 2))
    optimizer = SOAPByLayer([weight], lr=0.1)
    weight.data = torch.ones(1, 2)
    for _ in range(2):
        weight.grad = torch.ones(1, 2)
        optimizer.step()
    assert (weight < 1).all()


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.zeros(1, 2))
    with pytest.raises(ConfigError, match=r"init_args.lr = -1: must be at least 0"):
        SOAPByLayer([weight], lr=-1)
    with pytest.raises(ValueError, match="precondition_frequency must be positive"):
        SOAPByLayer([weight], lr=1.0, precondition_frequency=0)
    module = import_module("steer_lightning.optim.soap_by_layer")
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=r"'SOAPByLayer': needs.*pytorch-optimizer.*\[soap\]"):
        reload(module)
