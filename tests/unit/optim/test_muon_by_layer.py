"""Muon with each layer alone, by hand and against torch's Muon on matrices of one row."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import MuonByLayer
from steer_lightning.optim.muon_by_layer import direction
from steer_lightning.steering import AdaptiveVectors, SteeringVectors

NAN = float("nan")


def step(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradient: torch.Tensor) -> None:
    weight.grad = gradient.clone()
    optimizer.step()


def gradients(vectors: SteeringVectors, steps: int, seed: int = 0) -> torch.Tensor:
    """Made-up gradients (steps, L, D padded), of very different sizes, 0 in the padding."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(steps, *vectors.weight.shape, generator=generator)
    found *= torch.logspace(-4, 2, len(vectors.layers))[:, None]
    found[..., vectors.width :] = 0
    return found


def test_two_steps_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    optimizer = MuonByLayer([weight], lr=0.1, momentum=0.5, weight_decay=0.5)
    # momentum (1.5, 2, 0), update 0.5 * (1.5, 2, 0) + 0.5 * (3, 4, 0): along (3, 4, 0) / 5, whose
    # two elements that are not 0 get root mean square 1 by sqrt(2); weights shrink by 0.05
    step(optimizer, weight, torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -7.0]]))
    root = 2**0.5
    assert weight[0].tolist() == pytest.approx([1.9 - 0.06 * root, -0.08 * root, 0.0])
    assert weight[1].tolist() == pytest.approx([0.0, 0.0, 0.95 + 0.1])
    before = weight.detach().clone()
    # momentum (0.75, 1 - 1, 0) and update 0.5 * (0.75, 0, 0) + 0.5 * (0, -2, 0) = (0.375, -1, 0)
    step(optimizer, weight, torch.tensor([[0.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    length = (0.375**2 + 1) ** 0.5
    moved = [0.95 * float(before[0, 0]) - 0.1 * root * 0.375 / length]
    moved += [0.95 * float(before[0, 1]) + 0.1 * root / length, 0.0]
    assert weight[0].tolist() == pytest.approx(moved)
    assert weight[1].tolist() == pytest.approx([0.0, 0.0, 0.95 * 1.05])  # no gradient: only decay
    assert optimizer.state[weight]["momentum_buffer"][1].tolist() == [0.0, 0.0, -3.5]


def test_every_layer_moves_by_the_rate_whatever_its_gradient() -> None:
    vectors = SteeringVectors().shaped(192, 5)
    optimizer = MuonByLayer([vectors.weight], lr=0.02)
    for gradient in gradients(vectors, 4):
        before = vectors.vectors.detach().clone()
        step(optimizer, vectors.weight, gradient)
        moved = (vectors.vectors.detach() - before).pow(2).mean(dim=1).sqrt()
        assert moved.tolist() == pytest.approx([0.02] * 5, rel=1e-4)
    assert (vectors.weight[:, 192:] == 0).all()  # width 192 is padded to 256
    with pytest.raises(AssertionError):  # so is the root mean square without the padding
        assert vectors.weight.pow(2).mean().sqrt() == vectors.vectors.pow(2).mean().sqrt()


def test_layers_do_not_influence_each_other() -> None:
    plain, other = SteeringVectors().shaped(192, 4), SteeringVectors().shaped(192, 4)
    of_plain, of_other = MuonByLayer([plain.weight], lr=0.1), MuonByLayer([other.weight], lr=0.1)
    for gradient, more in zip(gradients(plain, 5), gradients(plain, 5, seed=1), strict=True):
        step(of_plain, plain.weight, gradient)
        gradient[2] = more[2]
        step(of_other, other.weight, gradient)
    same = [torch.equal(a, b) for a, b in zip(plain.vectors, other.vectors, strict=True)]
    assert same == [True, True, False, True]


def test_torchs_muon_on_the_stack_mixes_layers_and_leaves_the_padding() -> None:
    plain, other = SteeringVectors().shaped(192, 4), SteeringVectors().shaped(192, 4)
    gradient = gradients(plain, 1)[0]
    step(torch.optim.Muon([plain.weight], lr=0.1, weight_decay=0.0), plain.weight, gradient)
    gradient[2] = gradients(plain, 1, seed=1)[0, 2]
    step(torch.optim.Muon([other.weight], lr=0.1, weight_decay=0.0), other.weight, gradient)
    assert not torch.equal(plain.vectors[3], other.vectors[3])
    for vectors in (plain, other):
        assert (vectors.weight[:, 192:] == 0).all()


def test_a_row_of_its_own_is_torchs_muon_but_for_a_factor() -> None:
    # Newton-Schulz in bfloat16 brings the only singular value to about 0.7, not to 1
    rows = [nn.Parameter(torch.zeros(1, 192)) for _ in range(3)]
    stack = nn.Parameter(torch.zeros(3, 192))
    of_torch = torch.optim.Muon(rows, lr=1.0, weight_decay=0.0)
    ours = MuonByLayer([stack], lr=1.0)
    torch.manual_seed(0)
    for _ in range(5):
        before = torch.cat([row.detach().clone() for row in rows]), stack.detach().clone()
        gradient = torch.randn(3, 192) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
        for row, own in zip(rows, gradient, strict=True):
            row.grad = own[None].clone()
        of_torch.step()
        step(ours, stack, gradient)
        theirs, moved = torch.cat(list(rows)) - before[0], stack - before[1]
        assert torch.cosine_similarity(theirs, moved).min() > 0.9999
        assert ((theirs.norm(dim=1) > 0.67) & (theirs.norm(dim=1) < 0.73)).all()
        assert moved.norm(dim=1).tolist() == pytest.approx([192**0.5] * 3)


def test_without_signal_torchs_muon_goes_on_and_ours_stays() -> None:
    stack = [nn.Parameter(torch.zeros(2, 64)) for _ in range(2)]
    theirs, ours = torch.optim.Muon([stack[0]], weight_decay=0.0), MuonByLayer([stack[1]], lr=0.1)
    torch.manual_seed(0)
    first = torch.randn(2, 64)
    for optimizer, weight in zip((theirs, ours), stack, strict=True):
        step(optimizer, weight, first)
        before = weight.detach().clone()
        step(optimizer, weight, torch.zeros(2, 64))
        moved = (weight - before).norm() / before.norm()
        assert moved == 0 if optimizer is ours else moved > 0.5  # as far again, on momentum alone


def test_vectors_of_one_axis_and_gates_are_rows_too() -> None:
    bias = nn.Parameter(torch.zeros(2))
    step(MuonByLayer([bias], lr=0.1), bias, torch.tensor([3.0, -4.0]))
    assert bias.tolist() == pytest.approx([-0.06 * 2**0.5, 0.08 * 2**0.5])
    adaptive = AdaptiveVectors().shaped(8, 2)
    optimizer = MuonByLayer(adaptive.parameters(), lr=0.1)
    for parameter in adaptive.parameters():
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[0, 3] = 5.0
    optimizer.step()
    for parameter in adaptive.parameters():
        assert parameter[0, 3].item() == pytest.approx(-0.1)
        assert parameter.count_nonzero() == 1


def test_a_gradient_that_is_none_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    MuonByLayer([weight], lr=0.1, weight_decay=0.5).step()
    assert weight.tolist() == [[1.0] * 3] * 2
    assert direction(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    vectors = SteeringVectors().shaped(192, 3)
    optimizer = MuonByLayer([vectors.weight], lr=0.1)
    rows = gradients(vectors, 6)
    for gradient in rows[:3]:
        step(optimizer, vectors.weight, gradient)
    again = SteeringVectors().shaped(192, 3)
    again.load_state_dict(vectors.state_dict())
    restored = MuonByLayer([again.weight], lr=0.3)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in rows[3:]:
        step(optimizer, vectors.weight, gradient)
        step(restored, again.weight, gradient)
    assert torch.equal(vectors.weight, again.weight)


@pytest.mark.parametrize(
    "settings",
    [{"lr": -0.1}, {"lr": NAN}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"model.optimizer.init_args.{key} = "):
        MuonByLayer([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, **settings})
