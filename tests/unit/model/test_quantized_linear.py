"""Weights in 4 and 8 bits: values by hand, products and gradients against dequantised weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning.model.quantized_linear import (
    Bits,
    QuantizedLinear,
    QuantizedWeight,
    num_quantized,
    quantized_linear,
)

BITS: Any = pytest.mark.parametrize("bits", [4, 8])


def random_weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.1


def test_eight_bits_by_hand() -> None:
    # one block of 64 whose largest magnitude is 127: the steps are whole numbers
    weight = torch.zeros(2, 32)
    weight[0, :5] = torch.tensor([127.0, -127.0, 1.0, 41.6, -0.4])
    found = QuantizedWeight(weight, 8)
    assert found.absmax.tolist() == [127.0]
    assert found.dequantized(torch.float32)[0, :6].tolist() == pytest.approx(
        [127.0, -127.0, 1.0, 42.0, 0.0, 0.0], abs=1e-4
    )


def test_four_bits_by_hand() -> None:
    # values of NF4 (QLoRA, appendix E) times the largest magnitude 2: 0.0796 and 0.1609 are
    # neighbours, and 0.24 / 2 = 0.12 lies just below their middle
    weight = torch.zeros(1, 64)
    weight[0, :4] = torch.tensor([-2.0, 2 * 0.4407, 0.24, 0.25])
    found = QuantizedWeight(weight, 4)
    assert found.values.shape == (16,)
    assert found.dequantized(torch.float32)[0, :5].tolist() == pytest.approx(
        [-2.0, 2 * 0.44070983, 2 * 0.07958030, 2 * 0.16093020, 0.0], abs=1e-6
    )


def test_each_block_of_64_has_a_scale_of_its_own() -> None:
    weight = torch.cat([torch.full((64,), 1e-3), torch.full((64,), 100.0)]).view(2, 64)
    for bits in (4, 8):
        found = QuantizedWeight(weight, bits)  # type: ignore[arg-type]
        torch.testing.assert_close(found.dequantized(torch.float32), weight)
        assert found.absmax.tolist() == pytest.approx([1e-3, 100.0])


@BITS
def test_bytes_of_a_weight(bits: Bits) -> None:
    found = QuantizedWeight(random_weight(96, 64), bits)
    assert found.codes.dtype == torch.uint8
    assert found.codes.numel() == 96 * 64 * bits // 8
    assert found.absmax.numel() == 96
    assert not list(found.parameters()), "nothing of it is trained"
    assert num_quantized(nn.Sequential(found, nn.Linear(2, 2))) == 96 * 64


@BITS
def test_the_error_is_at_most_half_of_the_widest_step(bits: Bits) -> None:
    weight = random_weight(7, 33)  # 231 weights: the last block is not full, and 4 bits do not pair
    found = QuantizedWeight(weight, bits)
    scale = weight.abs().max()
    steps = found.values.sort().values.diff().max()
    error = (found.dequantized(torch.float32) - weight).abs().max()
    assert 0 < error <= scale * steps / 2 * 1.001
    assert torch.equal(
        found.dequantized(torch.bfloat16), found.dequantized(torch.float32).bfloat16()
    )


@BITS
@pytest.mark.parametrize("has_bias", [True, False])
def test_products_and_gradients_are_those_of_the_dequantised_weight(
    bits: Bits, has_bias: bool
) -> None:
    linear = nn.Linear(33, 7, bias=has_bias).requires_grad_(False)
    layer = QuantizedLinear(linear, bits)
    plain = copy.deepcopy(linear)
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    assert not torch.equal(plain.weight, linear.weight)
    x = torch.randn(2, 5, 33, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    slope = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2))
    found, expected = layer(ours), plain(theirs)
    torch.testing.assert_close(found, expected)
    (found * slope).sum().backward()
    (expected * slope).sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert layer.bias is linear.bias


def test_a_bias_may_be_trained() -> None:
    weight, bias = QuantizedWeight(random_weight(3, 4), 8), torch.zeros(3, requires_grad=True)
    quantized_linear(torch.ones(5, 4), weight, bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [5, 5, 5]


def test_what_autograd_keeps_is_not_the_dequantised_weight() -> None:
    layer = QuantizedLinear(nn.Linear(64, 64, bias=False), 4)
    kept: list[int] = []
    x = torch.randn(2, 64, requires_grad=True)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = layer(x)
    found.sum().backward()
    assert kept == []


@BITS
def test_a_row_does_not_depend_on_others(bits: Bits) -> None:
    layer = QuantizedLinear(nn.Linear(64, 32), bits)
    x = torch.randn(3, 64)
    x[1] *= 1000
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))


@BITS
def test_it_moves_is_saved_and_is_copied_with_its_model(bits: Bits) -> None:
    layer = QuantizedLinear(nn.Linear(64, 32).bfloat16(), bits)
    assert layer.weight.dtype == torch.bfloat16
    assert set(layer.state_dict()) == {
        *("quantized.codes", "quantized.absmax", "quantized.values"),
        "bias",
    }
    other = copy.deepcopy(layer)
    assert torch.equal(other.weight, layer.weight)
    assert layer(torch.ones(1, 64).bfloat16()).dtype == torch.bfloat16
    assert "in_features=64, out_features=32" in repr(layer)
