"""The temporary replacement of the `forward` of modules.

Tested with the layers of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

ForwardMethod = Callable[..., Any]


@contextmanager
def replaced_forwards(
    layers: Sequence[nn.Module], wrap: Callable[[ForwardMethod], ForwardMethod]
) -> Iterator[None]:
    """Replaces the `forward` of each layer, inside of its hooks, within the block.

    Args:
        layers: Layers of a model.
        wrap: Function from a layer's own `forward` to its replacement.
    """
    plain = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = wrap(layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, plain, strict=True):
            if forward is None:
                del layer.forward
            else:  # placed there by other code, such as accelerate
                layer.forward = forward
