"""The size and the dtypes of what an optimizer keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def state_facts(optimizer: torch.optim.Optimizer) -> tuple[int, list[str]]:
    """Returns the size of an optimizer's state in bytes, and the dtypes of its moments.

    The size includes counters, bitsandbytes' quantisation tables and SOAP's matrices. A dtype is
    named if a tensor of that dtype has as many elements as its parameter.
    """
    total, kinds = 0, set()
    for parameter, state in optimizer.state.items():
        for tensor in _tensors_in(state.values()):
            total += tensor.numel() * tensor.element_size()
            if tensor.numel() == parameter.numel():
                kinds.add(str(tensor.dtype).removeprefix("torch."))
    return total, sorted(kinds)


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):  # matrices of SOAP, one for each axis
            yield from _tensors_in(value)
