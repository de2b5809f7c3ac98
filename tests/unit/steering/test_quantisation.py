"""Quantised vectors and the length of their description, by hand and against a real code."""

from __future__ import annotations

from itertools import pairwise
from math import comb, inf

import pytest
import torch

from steer_lightning.steering.quantisation import (
    DescriptionLength,
    description_length,
    largest,
    num_kept,
    quantise,
    quantised_rows,
)


def quantised(row: list[float], bits: int, keep: float = 1.0) -> list[float]:
    return quantised_rows(torch.tensor([row], dtype=torch.float32), bits, keep)[0].tolist()


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    # (3 + 1 + 0.5 + 4) / 4 = 2.125
    assert quantised([3, -1, 0.5, -4], 1) == [2.125, -2.125, 2.125, -2.125]
    assert quantised([3, 0, 0, -3], 1) == [1.5, 1.5, 1.5, -1.5], "a zero counts as positive"


def test_two_bits_round_what_is_small_to_zero() -> None:
    # q = (1, 0, 0, -1) has s = (3 + 4) / 2 and the error 0.25 + 1 + 0.25 + 0.25 = 1.75;
    # q = (1, -1, 0, -1) has s = 8 / 3 and the error 4.9; q without a zero has the error 8.2
    assert quantised([3, -1, 0.5, -4], 2) == [3.5, 0, 0, -3.5]


def test_three_bits_hold_seven_equally_spaced_numbers() -> None:
    row = [0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 0.0]
    assert quantised(row, 3) == row
    # with t = 2 / 3, 1.1 is 1.65 steps, so q = (3, 2), s = (3 * 2 + 2 * 1.1) / 13
    assert quantised([2.0, 1.1], 3) == pytest.approx([3 * 8.2 / 13, 2 * 8.2 / 13])


def test_one_outlier_is_clipped_for_the_sake_of_the_others() -> None:
    # 63 ones beside a 2: a step of 2, which clips nothing, would make all ones 0
    row = [2.0] + [1.0] * 63
    assert quantised(row, 2) == pytest.approx([65 / 64] * 64)


def test_the_error_falls_with_every_bit() -> None:
    rows = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    errors = [inf] + [
        float((rows - quantised_rows(rows, bits, 1.0)).norm()) for bits in (1, 2, 3, 4, 6, 8, 16)
    ]
    assert all(fine < coarse for coarse, fine in pairwise(errors))
    assert errors[-1] < 1e-3


def test_the_errors_for_gaussian_numbers_are_those_of_max() -> None:
    # best levels of a standard normal distribution (Max 1960, tables I and II): 2 levels leave
    # 1 - 2 / pi of the variance, 3 levels 0.190
    row = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    for bits, share in ((1, 0.3634), (2, 0.1902)):
        left = (row - quantised_rows(row, bits, 1.0)).norm() / row.norm()
        assert float(left) ** 2 == pytest.approx(share, abs=0.005)


def test_the_largest_numbers_are_kept_and_of_equal_ones_the_first() -> None:
    assert quantised([1.0, -3.0, 2.0, 0.5], 32, 0.5) == [0, -3.0, 2.0, 0]
    assert quantised([1.0, -1.0, 1.0, 1.0], 32, 0.5) == [1.0, -1.0, 0, 0]
    assert quantised([3, -1, 0.5, -4], 1, 0.5) == [3.5, 0, 0, -3.5]
    assert [num_kept(192, share) for share in (1, 0.5, 0.1, 0.001)] == [192, 96, 19, 1]


def test_layers_are_quantised_independently() -> None:
    rows = torch.tensor([[1.0, -1.0], [0.0, 0.0], [400.0, 200.0]])
    assert quantised_rows(rows, 1, 1.0).tolist() == [[1, -1], [0, 0], [300, 300]]
    assert quantised_rows(rows[1:2], 8, 1.0).tolist() == [[0, 0]]
    assert rows[2, 0] == 400, "nothing is changed in place"


def test_lengths_by_hand() -> None:
    length = description_length(num_decoder_layers=4, num_layers=2, width=4, bits=3, keep=0.5)
    # C(4, 2) = 6 sets of places need 3 bits
    assert length == DescriptionLength(header=116, mask=6, scales=64, values=12)
    assert length.total == 198
    whole = description_length(num_decoder_layers=4, num_layers=4, width=192, bits=32, keep=1.0)
    assert whole == DescriptionLength(header=116, mask=0, scales=0, values=4 * 192 * 32)


def encode(row: torch.Tensor, bits: int, keep: float) -> str:
    """Writes a row as mask, scale and integers, as the docstring of the module says."""
    places = largest(row, keep)
    scale, integers = quantise(row[places], bits)
    rank = sum(comb(place, k) for k, place in enumerate(places.tolist(), 1))
    size = (comb(len(row), len(places)) - 1).bit_length()
    number = int.from_bytes(scale.numpy().tobytes(), "little")
    codes = [int(q) + 2 ** (bits - 1) if bits > 1 else int(q > 0) for q in integers]
    mask = f"{rank:0{size}b}" if size else ""
    return mask + f"{number:032b}" + "".join(f"{code:0{bits}b}" for code in codes)


def decode(text: str, bits: int, width: int, kept: int) -> torch.Tensor:
    """Reads back what `encode` has written."""
    size = (comb(width, kept) - 1).bit_length()
    rank, places = int(text[:size] or "0", 2), []
    for k in range(kept, 0, -1):
        places.append(max(x for x in range(width) if comb(x, k) <= rank))
        rank -= comb(places[-1], k)
    number = int(text[size : size + 32], 2).to_bytes(4, "little")
    scale = torch.frombuffer(bytearray(number), dtype=torch.float32)
    behind = text[size + 32 :]
    codes = [int(behind[k : k + bits], 2) for k in range(0, len(behind), bits)]
    integers = [c - 2 ** (bits - 1) if bits > 1 else 2 * c - 1 for c in codes]
    row = torch.zeros(width)
    row[sorted(places)] = scale * torch.tensor(integers, dtype=torch.float32)
    return row


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_a_code_of_that_length_is_read_back_without_loss(bits: int, keep: float) -> None:
    rows = torch.randn(2, 30, generator=torch.Generator().manual_seed(1))
    texts = [encode(row, bits, keep) for row in rows]
    length = description_length(num_decoder_layers=2, num_layers=2, width=30, bits=bits, keep=keep)
    assert sum(map(len, texts)) == length.total - length.header
    read = torch.stack([decode(text, bits, 30, num_kept(30, keep)) for text in texts])
    assert torch.equal(read, quantised_rows(rows, bits, keep))
