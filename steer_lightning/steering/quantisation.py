"""Vectors in few bits, and how many bits describe them.

A layer's vector v has D numbers. The k of largest magnitude are kept, the others become 0. Each
kept number becomes an integer q_i of b bits, and the layer has one step size s:

    v'_i = s q_i,  q_i = sign(v_i)                           for b = 1
                   q_i = clip(round(v_i / t), -m, m)         for b = 2 ... 16, m = 2^(b-1) - 1
                   s   = <v, q> / <q, q>

`round` takes halves to the even neighbour, and sign(0) is 1. For given integers this s has the
least squared error |v - s q|^2; with one bit it is the mean magnitude. The step t with which the
integers are found is the best of 100 between max|v| / m, with which no number is clipped, and a
hundredth of it. With 32 bits the kept numbers stay as they are. A layer of zeros stays zero.

The description is a code from which the numbers can be read back without loss:

    header   8 (b) + 8 (site and tokens) + 3 * 32 (decoder layers, D, k) + 1 for each decoder layer
    mask     L ceil(log2 C(D, k)), the rank of each set of places among all sets of k places
    scales   32 L, but 0 for b = 32
    values   L k b

It is the first part of a two-part code in the sense of minimum description length (Rissanen 1978).
The base, which the receiver has, is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FLOAT_BITS = 32
MOST_BITS = 16
"""Most bits of integers; more would hardly be coarser than float32 itself."""
STEPS = 100
"""Number of step sizes that are tried."""


@dataclass(frozen=True, kw_only=True)
class DescriptionLength:
    """Number of bits of each part of a description."""

    header: int
    """What tells the shape of all else."""
    mask: int
    """Which numbers are kept."""
    scales: int
    """The layers' step sizes."""
    values: int
    """The kept numbers."""

    @property
    def total(self) -> int:
        """Number of bits of the whole description."""
        return self.header + self.mask + self.scales + self.values


def num_kept(width: int, keep: float) -> int:
    """Returns k, the number of numbers that a layer keeps: the share, rounded, but at least 1."""
    return max(1, round(keep * width))


def description_length(
    *, num_decoder_layers: int, num_layers: int, width: int, bits: int, keep: float
) -> DescriptionLength:
    """Returns how many bits describe quantised vectors.

    Args:
        num_decoder_layers: Number of decoder layers of the model.
        num_layers: Number L of steered layers.
        width: Width D of the stream.
        bits: Bits b of a kept number.
        keep: Share of a layer's numbers that are kept.
    """
    kept = num_kept(width, keep)
    return DescriptionLength(
        header=8 + 8 + 3 * 32 + num_decoder_layers,
        mask=num_layers * (math.comb(width, kept) - 1).bit_length(),
        scales=0 if bits == FLOAT_BITS else num_layers * 32,
        values=num_layers * kept * bits,
    )


def quantised_rows(rows: torch.Tensor, bits: int, keep: float) -> torch.Tensor:
    """Quantises and sparsifies vectors.

    Args:
        rows: Vectors (L, D) float32.
        bits: Bits of a kept number, 1 to 16, or 32.
        keep: Share of each row's numbers that are kept, those of largest magnitude; among equal
            ones the first.

    Returns:
        Vectors (L, D) float32 as they are read back from the description.
    """
    found = torch.zeros_like(rows)
    for row, target in zip(rows, found, strict=True):
        places = largest(row, keep)
        if bits == FLOAT_BITS:
            target[places] = row[places]
        else:
            scale, integers = quantise(row[places], bits)
            target[places] = scale * integers
    return found


def largest(row: torch.Tensor, keep: float) -> torch.Tensor:
    """Returns the places (k,) of the numbers of a row (D,) that are kept, ascending."""
    order = row.abs().sort(descending=True, stable=True).indices
    return order[: num_kept(len(row), keep)].sort().values


def quantise(numbers: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the step size s and the integers q (k,), both float32, of numbers (k,)."""
    exact = numbers.double()
    most = 1 if bits == 1 else 2 ** (bits - 1) - 1
    greatest = float(exact.abs().max())
    if greatest == 0:
        return numbers.new_zeros(()), torch.ones_like(numbers)
    if bits == 1:
        tries = [torch.where(exact < 0, -1.0, 1.0).double()]
    else:
        steps = (greatest / most * k / STEPS for k in range(STEPS, 0, -1))
        tries = [(exact / step).round().clamp(-most, most) for step in steps]
    fitted = [(_best_scale(exact, q), q) for q in tries]
    scale, integers = min(fitted, key=lambda x: float((exact - x[0] * x[1]).square().sum()))
    return scale.float(), integers.float()


def _best_scale(numbers: torch.Tensor, integers: torch.Tensor) -> torch.Tensor:
    return numbers @ integers / (integers @ integers)
