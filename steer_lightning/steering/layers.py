"""Functions that find and select decoder layers of a causal language model of transformers.

Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from steer_lightning.errors import ConfigError

LAYER_PATHS = (
    "model.layers",  # Llama, Qwen2, Qwen3, Mistral, Phi-3, Gemma, OLMo 2, ...
    "model.language_model.layers",  # multimodal wrappers
    "language_model.layers",
    "transformer.h",  # GPT-2, GPT-J, Falcon, BLOOM
    "gpt_neox.layers",  # GPT-NeoX, Pythia
    "model.decoder.layers",  # OPT
    "transformer.blocks",  # MPT
    "transformer.layers",
    "backbone.layers",
)


MAX_DIGITS = 5  # in a layer index; a longer range would fill the memory before it is refused


def find_layers(model: nn.Module, layers_path: str | None = None) -> nn.ModuleList:
    """Finds the stack of decoder layers in a model.

    Args:
        model: Causal language model of transformers.
        layers_path: Dotted path of the `ModuleList`; None tries the known paths.

    Returns:
        The decoder layers, in order.

    Raises:
        ConfigError: If no path leads to a `ModuleList`; the error lists the paths that were tried.
    """
    tried = (layers_path,) if layers_path else LAYER_PATHS
    for path in tried:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and len(found) > 0:
            return found
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    raise ConfigError(
        "model.steering.layers_path",
        layers_path,
        rule=f"no decoder layers found in {type(model).__name__} at {', '.join(tried)}",
        why=f"The model's lists of modules are: {', '.join(lists[:10]) or 'none'}",
        fix="Set model.steering.layers_path (in Python: `layers_path=`) to the dotted path of "
        "its decoder layers",
    )


def language_model(model: nn.Module) -> nn.Module:
    """Returns the model of transformers inside a wrapper, such as PEFT's, or the model itself.

    `generate` of a wrapper calls the wrapped model, never the wrapper's `forward`.
    """
    found = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return next(found, model)


def stream_width(model: Any) -> int:
    """Returns the width D of the residual stream, from the configuration of the model.

    Raises:
        ConfigError: If the configuration has none.
    """
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    if width is None:
        raise ConfigError(
            "model.base",
            type(model).__name__,
            rule="the configuration of the model has no hidden_size",
            why="Parts of different widths do not share one stream",
            fix="Use another base",
        )
    return int(width)


def parse_layers(
    layers: str | Sequence[int], num_layers: int | None = None, key: str = "model.steering.layers"
) -> tuple[int, ...]:
    """Resolves `all`, `"8-15"` or a list of 0-based indices.

    Args:
        layers: Selected layers; a range includes both ends.
        num_layers: Number of decoder layers; with None, only the form is checked, before a model is
            known.
        key: Option that selects the layers, for errors.

    Returns:
        Ascending 0-based indices; empty for `all` while `num_layers` is None.

    Raises:
        ConfigError: If the form is wrong, an index repeats, or one is out of range.
    """
    if isinstance(layers, str) and layers == "all":
        return tuple(range(num_layers or 0))
    if isinstance(layers, str):
        first, dash, last = layers.partition("-")
        first, last = first.strip(), last.strip() if dash else first.strip()
        if not all(index.isascii() and index.isdecimal() for index in (first, last)):
            raise _wrong_layers(
                key, layers, 'must be "all", a range such as "8-15", or a list of integers'
            )
        if max(len(first), len(last)) > MAX_DIGITS:
            raise _wrong_layers(key, layers, "no model has that many decoder layers")
        indices: Sequence[int] = range(int(first), int(last) + 1)
    else:
        if any(isinstance(x, bool) or not isinstance(x, Integral) for x in layers):
            raise _wrong_layers(key, layers, "layer indices must be whole numbers")
        indices = sorted(int(index) for index in layers)
    if not indices or len(set(indices)) != len(indices):
        raise _wrong_layers(
            key,
            layers,
            "must name at least one layer, each only once, and in a range the smaller one first",
        )
    if indices[0] < 0 or (num_layers is not None and indices[-1] >= num_layers):
        bound = (
            f"0 to {num_layers - 1}: the model has {num_layers} decoder layers"
            if num_layers
            else "0 or more"
        )
        raise _wrong_layers(key, layers, f"layer indices must be {bound}")
    return tuple(indices)


def shown_layers(layers: Sequence[int]) -> str:
    """Writes ascending indices in a form that `parse_layers` reads: `"8-15"`, or a list."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return str(list(layers))


def check_ascending(layers: str | Sequence[int], key: str = "model.steering.layers") -> None:
    """Raises a ConfigError if the form of `layers` is wrong, or a list is not ascending.

    It is for settings that may be used with vectors later, whose rows follow ascending layers.
    """
    ascending = parse_layers(layers, key=key)
    if not isinstance(layers, str) and list(layers) != list(ascending):
        raise ConfigError(
            key,
            list(layers),
            rule="must be in ascending order",
            why="The rows of vectors are in ascending order, so with another order they would be "
            "assigned to the wrong layers",
            fix=f"Set {list(ascending)}, and sort any rows that belong to these layers in the "
            "same way",
        )


def in_layer_order(
    rows: torch.Tensor, layers: str | Sequence[int], num_layers: int, key: str = "layers"
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Sorts rows together with their layers.

    `parse_layers` sorts indices. Numbers that come with a list of layers must be sorted with the
    list, or vectors would be assigned to the wrong layers.

    Args:
        rows: Vectors (L, D); the k-th one belongs to `layers[k]`.
        layers: Selected layers: `all`, a range, or L 0-based indices in any order.
        num_layers: Number of decoder layers.
        key: Option that selects the layers, for errors.

    Returns:
        The rows (L, D) and their layers, ascending.

    Raises:
        ConfigError: If `layers` is wrong, or does not name one layer for each row.
    """
    ascending = parse_layers(layers, num_layers, key)
    if len(ascending) != len(rows):
        raise ConfigError(key, layers, rule=f"must name {len(rows)} layers, one for each row")
    given = ascending if isinstance(layers, str) else list(layers)
    return rows[[given.index(layer) for layer in ascending]], ascending


def _wrong_layers(key: str, layers: object, rule: str) -> ConfigError:
    return ConfigError(key, layers, rule=rule, fix='Set "all", "8-15" or [8, 9]')
