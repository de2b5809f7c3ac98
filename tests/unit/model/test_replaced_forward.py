"""A layer's `forward` is another one while a block runs, inside of its hooks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from steer_lightning.model.replaced_forward import replaced_forwards

Forward = Any


def doubled(forward: Forward) -> Forward:
    return lambda x: 2 * forward(x)


def layer(weight: float) -> nn.Linear:
    found = nn.Linear(1, 1, bias=False)
    nn.init.constant_(found.weight, weight)
    return found


ONE = torch.ones(1)


def test_hooks_see_what_the_other_forward_returns() -> None:
    three, seen = layer(3.0), []
    three.register_forward_hook(lambda module, x, output: seen.append(output.item()))
    with replaced_forwards([three], doubled):
        assert three(ONE).item() == 6.0
        with replaced_forwards([three], doubled):
            assert three(ONE).item() == 12.0
        assert three(ONE).item() == 6.0
    assert three(ONE).item() == 3.0
    assert seen == [6.0, 12.0, 6.0, 3.0]
    assert "forward" not in three.__dict__


def test_a_forward_that_someone_has_placed_there_comes_back() -> None:
    three, five = layer(3.0), layer(5.0)
    mine = doubled(three.forward)
    three.forward = mine
    with suppress(KeyError), replaced_forwards([three, five], doubled):
        assert (three(ONE).item(), five(ONE).item()) == (12.0, 10.0)
        raise KeyError
    assert three.forward is mine
    assert "forward" not in five.__dict__
