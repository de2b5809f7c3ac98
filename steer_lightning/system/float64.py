"""Arithmetic in float64, which Apple's GPUs do not have."""

from __future__ import annotations

import torch


def finest_on(device: torch.device) -> torch.dtype:
    """Returns float64, or float32 for a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def in_float64(numbers: torch.Tensor) -> torch.Tensor:
    """Returns the same numbers in float64, on the CPU if their device has no float64."""
    return (numbers if finest_on(numbers.device) is torch.float64 else numbers.cpu()).double()
