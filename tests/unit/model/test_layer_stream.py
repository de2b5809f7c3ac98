"""The stream that enters a layer, handed over in either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning.model.layer_stream import stream_given, stream_seen


class Plus(nn.Module):
    """A layer that adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, hidden_states: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return hidden_states + self.number


@pytest.mark.parametrize("by_name", [False, True])
def test_a_stream_is_seen_and_then_given_without_the_layers_below(by_name: bool) -> None:
    first, second, third = Plus(1.0), Plus(10.0), Plus(100.0)

    def run() -> float:
        stream = torch.zeros(1, 1, 1)
        for layer in (first, second, third):
            stream = layer(hidden_states=stream, mask=0) if by_name else layer(stream, 0)
        return float(stream)

    seen: list[torch.Tensor] = []
    with stream_seen(third, seen.append):
        assert run() == 111
    assert [float(stream) for stream in seen] == [11]
    with stream_given([first, second], third, torch.full((1, 1, 1), 5.0)):
        assert run() == 105
    assert run() == 111
    assert len(seen) == 1
