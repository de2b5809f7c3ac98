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
    """Replaces each layer's `forward`, inside of its hooks, while the block runs.

    Args:
        layers: Layers of a model.
        wrap: Function from a layer's own `forward` to the one that takes its place.
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
            else:  # placed there by someone else, such as accelerate
                layer.forward = forward
