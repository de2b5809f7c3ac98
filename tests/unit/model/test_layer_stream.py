"""The stream that enters a layer, handed over in either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning.model.layer_stream import skipped, stream_into


class Plus(nn.Module):
    """A layer that adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, hidden_states: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return hidden_states + self.number


@pytest.mark.parametrize("by_name", [False, True])
def test_another_stream_enters_a_layer_without_the_layers_below(by_name: bool) -> None:
    first, second, third = Plus(1.0), Plus(10.0), Plus(100.0)

    def run() -> float:
        stream = torch.zeros(1, 1, 1)
        for layer in (first, second, third):
            stream = layer(hidden_states=stream, mask=0) if by_name else layer(stream, 0)
        return float(stream)

    assert run() == 111
    with stream_into(third, lambda stream: 2 * stream):
        assert run() == 122
        with skipped([first, second]):
            assert run() == 100
    with skipped([first, second]), stream_into(third, lambda stream: torch.tensor(5.0)):
        assert run() == 105
    assert run() == 111
