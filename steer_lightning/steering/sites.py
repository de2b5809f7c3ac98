"""The sites: places in a decoder layer of transformers at which a vector can be added.

Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from steer_lightning.errors import ConfigError

Site = Literal[
    "layer_output", "input_norm", "attention_output", "post_attention_norm", "mlp_output"
]

MODULES: dict[str, tuple[str, ...]] = {
    "input_norm": ("input_layernorm", "ln_1"),
    "attention_output": ("self_attn", "attn", "attention", "self_attention"),
    # in Gemma and AFMoE, `post_attention_layernorm` normalises the output of the attention, and the
    # MLP reads the output of another norm
    "post_attention_norm": (
        "pre_feedforward_layernorm",
        "pre_mlp_layernorm",
        "post_attention_layernorm",
        "ln_2",
    ),
    "mlp_output": ("mlp",),
}
"""Names of the modules whose output is a site; the first one that a layer has counts.

`layer_output` is the output of the layer itself. A site is defined by what reads it: the attention
reads `input_norm`, the MLP reads `post_attention_norm`, and the two outputs go into a norm, if
there is one, or else into the residual stream. A name alone does not prove this, so `site_check`
observes a pass.
"""


def find_sites(layers: nn.ModuleList, indices: Sequence[int], site: str) -> list[nn.Module]:
    """Finds the modules whose output is steered.

    Args:
        layers: Decoder layers of a model.
        indices: Indices of the steered layers.
        site: Name of the site, one of `Site`.

    Returns:
        A module for each index.

    Raises:
        ConfigError: If a layer has no such site; the error lists the sites that it has.
    """
    found = [_find(layers[index], site) for index in indices]
    missing = [index for index, module in zip(indices, found, strict=True) if module is None]
    if missing:
        layer = layers[missing[0]]
        kind = type(layer).__name__
        known = named_sites(layer)
        raise ConfigError(
            "model.steering.site",
            site,
            rule=f"the layers of model.base are of type {kind}, which has no such site",
            why=f"Its modules are {', '.join(name for name, _ in layer.named_children())}",
            fix=f"Set one of {', '.join(known)}",
        )
    return [module for module in found if module is not None]


def named_sites(layer: nn.Module) -> list[str]:
    """Returns the sites for which a layer has a module of a known name."""
    return [name for name in ("layer_output", *MODULES) if _find(layer, name) is not None]


def _find(layer: nn.Module, site: str) -> nn.Module | None:
    if site == "layer_output":
        return layer
    parts = dict(layer.named_children())
    if "post_feedforward_layernorm" in parts and "pre_feedforward_layernorm" not in parts:
        # in OLMo 2, the norms come after attention and MLP, which read the plain stream
        parts = {name: part for name, part in parts.items() if not name.endswith("layernorm")}
    found = (parts[name] for name in MODULES[site] if name in parts)
    # a model calls the parts of a list, never the list itself
    return next((part for part in found if not isinstance(part, nn.ModuleList)), None)
