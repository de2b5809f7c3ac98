"""Arithmetic in float64 where the device has it."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.system.float64 import finest_on, in_float64


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)],
)
def test_only_apples_gpus_lack_float64(device: str, dtype: torch.dtype) -> None:
    assert finest_on(torch.device(device)) == dtype


class OnApple(torch.Tensor):
    """Numbers that say they were on such a device."""

    device = torch.device("mps")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return torch.tensor([2.0])


def test_numbers_are_moved_before_they_are_widened() -> None:
    third = torch.tensor([1 / 3])
    assert in_float64(third).dtype == torch.float64
    assert in_float64(third) == third
    there = in_float64(torch.Tensor._make_subclass(OnApple, third))
    assert there.dtype == torch.float64
    assert there == 2, "what `cpu` returns"
