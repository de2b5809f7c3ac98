"""Folding vectors into the biases of linear layers while the vectors do not change.

A decoder layer whose last operation is `residual + down_proj(x)` adds a bias of `down_proj` to its
output. The sum is the same as with a vector at that site, but needs no separate operation for each
token and layer. Layers that normalise after the MLP, as in Gemma and OLMo 2, are different. Tested
with the classes of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from steer_lightning.steering import ConstantVector

BIAS_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")}
"""Class names of layers that end in `residual + mlp.down_proj(x)`; a subclass may differ."""


@contextmanager
def folded_into_biases(vectors: Sequence[ConstantVector]) -> Iterator[None]:
    """Makes biases add the vectors within the block, if a layer has a bias for them.

    Args:
        vectors: Vectors that are active in the block; those in a bias are marked as folded.
    """
    homes = []
    for constant in vectors:
        home = bias_home(constant.layer, constant.site)
        # a zero vector is not folded, because the products of the base with a bias differ in the
        # last bit
        if home is not None and bool(constant.vector.any()):
            plain = constant.vector.to(home.weight.dtype)
            home.bias = nn.Parameter(plain, requires_grad=False)
            constant.is_folded = True
            homes.append(home)
    try:
        yield
    finally:
        for home in homes:
            home.bias = None  # type: ignore[assignment]  # like nn.Linear itself


def bias_home(layer: nn.Module, site: str) -> nn.Linear | None:
    """Returns the linear layer whose bias acts like a vector at a site, if there is one."""
    # FSDP2 replaces the class of a layer by a class with this prefix
    if type(layer).__name__.removeprefix("FSDP") not in BIAS_LAYERS:
        return None
    if site not in ("layer_output", "mlp_output"):
        return None
    home = layer.get_submodule("mlp.down_proj")
    # a quantised layer has another class
    return home if type(home) is nn.Linear and home.bias is None else None
