"""Linear layers whose frozen weights are kept in 4 or 8 bits.

The weights of a layer are cut into blocks of 64. Each block is divided by its largest magnitude
`s`, and each quotient is replaced by the number `c` of the nearest of 16 or 256 fixed values `q`:

    W ~ s q[c].

In 4 bits the values are the quantiles of a normal distribution, NF4 of QLoRA (arXiv 2305.14314); in
8 bits they are 255 equal steps from -1 to 1. With a float32 `s` for each block this makes 4.5 and
8.5 bits a weight. Only weights are quantised. Each pass dequantises them for the product
`x W^T + b`, so the layer computes exactly what a plain one with the dequantised weights computes,
row by row, whatever the other rows are. (LLM.int8, arXiv 2208.07339, also rounds the inputs `x`.
Rounding moves the last bits of `x` to the next of 255 steps, by which the engine and the update
would disagree.)

The gradient with respect to the input is `dL/dy W`, for which the backward pass dequantises the
weights again: they are never kept. The weights themselves have no gradient. Tested with
bitsandbytes 0.50.2 on a CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.system.import_noise import quiet_imports

Bits = Literal[4, 8]
"""Number of bits of a quantised weight."""

BLOCK = 64
"""Number of weights that share a scale."""


@cache
def _functional() -> Any:
    """Imports what quantises; not at the top, since most commands need no quantised base."""
    with quiet_imports():
        import bitsandbytes.functional
    return bitsandbytes.functional


class QuantizedWeight(nn.Module):
    """A frozen matrix in 4 or 8 bits.

    Args:
        weight: Matrix (O, I) of any float dtype.
        bits: Number of bits of each weight.

    Attributes:
        shape: Shape (O, I) of the matrix.
        codes: Numbers of the values, uint8: one a byte, (O, I), or two a byte, (ceil(O I / 2), 1).
        absmax: Largest magnitude of each block, (ceil(O I / 64),) float32.
        values: Values between -1 and 1, (16,) or (256,) float32.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    values: torch.Tensor

    def __init__(self, weight: torch.Tensor, bits: Bits) -> None:
        super().__init__()
        functional = _functional()
        plain = weight.detach().float().contiguous()
        if bits == 4:
            codes, state = functional.quantize_4bit(plain, blocksize=BLOCK, quant_type="nf4")
        else:
            steps = functional.create_linear_map(signed=True, total_bits=8).to(plain.device)
            codes, state = functional.quantize_blockwise(plain, code=steps, blocksize=BLOCK)
        self.bits, self.shape = bits, weight.shape
        self.register_buffer("codes", codes)
        self.register_buffer("absmax", state.absmax)
        self.register_buffer("values", state.code)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns the matrix (O, I), rounded to a dtype."""
        functional = _functional()
        state = functional.QuantState(
            absmax=self.absmax,
            shape=self.shape,
            code=self.values,
            blocksize=BLOCK,
            quant_type="nf4" if self.bits == 4 else None,
            dtype=dtype,
        )
        restore = functional.dequantize_4bit if self.bits == 4 else functional.dequantize_blockwise
        found: torch.Tensor = restore(self.codes, state)
        return found


def quantized_bytes(num_weights: int, bits: Bits) -> int:
    """Counts the bytes of a `QuantizedWeight`: codes, a scale for each block, and the values.

    Args:
        num_weights: Number of weights of the matrix.
        bits: Number of bits of each weight.
    """
    return -(-num_weights * bits // 8) + 4 * -(-num_weights // BLOCK) + 4 * (1 << bits)


class _Product(torch.autograd.Function):
    """Computes `x W^T` with a dequantised W, which the backward pass dequantises again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, weight.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0] @ ctx.weight.dequantized(grads[0].dtype), None


def num_quantized(model: nn.Module) -> int:
    """Counts the weights of each `QuantizedWeight` of a model, which are no parameters of it."""
    return sum(x.shape.numel() for x in model.modules() if isinstance(x, QuantizedWeight))


def quantized_linear(
    x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """Computes `x W^T + b` with a quantised matrix W, differentiably in x and b.

    Args:
        x: Inputs (..., I).
        weight: Matrix (O, I).
        bias: Bias (O,), or None.

    Returns:
        Outputs (..., O) in the dtype of the inputs.
    """
    product: torch.Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return product if bias is None else product + bias


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantised weight and its original bias, which stays as it is.

    It is an `nn.Linear` to other code: PEFT puts its LoRA around it, and what reads `weight` gets
    the dequantised matrix.

    Args:
        linear: Layer whose weight is quantised.
        bits: Number of bits of each weight.

    Attributes:
        quantized: The weight.
        weight_bits: Its number of bits, by which `attach` knows a quantised base.
    """

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)  # `nn.Linear` would allocate the whole weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.quantized, self.weight_bits = QuantizedWeight(linear.weight, bits), bits
        self.bias = linear.bias
        self._dtype = linear.weight.dtype

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # an attribute of `nn.Linear`
        """The dequantised matrix (O, I), in the dtype of the original one; made at each access."""
        return self.quantized.dequantized(self._dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs (..., O) of inputs (..., I)."""
        return quantized_linear(x, self.quantized, self.bias)
