"""The function that steers a model in two lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import BASE_BITS, Attachment, Steering
from steer_lightning.steering.io import find_result, load_steering
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.site_vectors import warn_of_another_base
from steer_lightning.steering.vectors import SteeringVectors


def attach(
    model: nn.Module,
    vectors: Steering | torch.Tensor | str | Path,
    scale: float = 1.0,
    layers_path: str | None = None,
) -> Attachment:
    """Steers a transformers model: every forward pass, `generate` included, adds the vectors.

    For example::

        with attach(model, "runs/quickstart/run-1"):
            model.generate(**inputs)

    If the vectors have `tokens` other than `all`, `generate` determines which tokens are the
    prompt. In a pass outside `generate`, the tokens that are read into an empty cache are the
    prompt. This function runs the model on five tokens, to check that the site is what its name
    says and that a text reaches the layers, unless the site is `layer_output` and the vectors are
    zero. The output of layers with several streams, as in Gemma 3n and DeepSeek V4, is refused in
    the first pass.

    While anything is attached, `generate` does not compile the model. A compiled model is refused,
    unless only its layers are compiled, each separately. Attach to the original model: code
    compiled from it, earlier or later, then follows each attachment, change and removal.

    Args:
        model: Transformers causal language model.
        vectors: Folder of a run, or path of its result, of any kind; a loaded object, which is
            moved to the model's device; or a tensor (number of decoder layers, D) of plain vectors.
        scale: Factor on the vectors; 0 is the base model.
        layers_path: Dotted path of the decoder layers, if they are not found automatically.

    Returns:
        A context manager with `.remove()` and a `scale` that can be changed.

    Raises:
        ConfigError: If the model is not a language model, or the vectors are none of the above; if
            the vectors do not fit the model (the error shows both widths or layer counts); if their
            site is not what its name says, or no text reaches their layer; or if the model is
            compiled. Vectors that fit but come from a model of another name, or from one that was
            quantised to other bits, only cause a warning.
    """
    _check_model(model)
    if isinstance(vectors, (str, Path)):
        vectors = load_steering(find_result(vectors))
    if isinstance(vectors, torch.Tensor):
        vectors = _from_tensor(vectors, num_layers=len(find_layers(model, layers_path)))
    if not isinstance(vectors, Steering):
        raise ConfigError(
            "vectors",
            _kind(vectors),
            rule="must be the folder of a run, a file of vectors, loaded vectors, or one tensor",
            fix="Attach results one after another; make one tensor of rows with torch.stack",
        )
    if layers_path is not None:
        vectors.layers_path = layers_path
    vectors.build(model)  # the parameters exist already, so this checks that they fit
    warn_of_another_base(vectors, getattr(model, "name_or_path", ""), _base_bits(model, vectors))
    vectors.to(next(model.parameters()).device)  # moved once, instead of for every token
    return vectors.attach(model, scale)


def _check_model(model: Any) -> None:
    """Raises a ConfigError if the object can't be a causal language model of transformers."""
    if isinstance(model, nn.Module) and hasattr(getattr(model, "config", None), "get_text_config"):
        return
    raise ConfigError(
        "model",
        _kind(model),
        rule="must be a causal language model of transformers",
        why="Vectors are added in its decoder layers",
        fix="Load one with `model, tokenizer = steer_lightning.load_model(NAME)`, and attach "
        "with `attach(model, vectors)`",
    )


def _base_bits(model: nn.Module, vectors: Steering) -> int | str | None:
    """Returns the bits of a quantised base as its layers tell them; None if no layer does.

    A checkpoint that is quantised already is taken for the one on which the vectors were trained:
    its name says which it is, and its layers do not tell their bits.
    """
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        return vectors.metadata.get(BASE_BITS)
    told = (getattr(module, "weight_bits", None) for module in model.modules())
    return next((bits for bits in told if bits), None)


def _kind(thing: object) -> str:
    """Describes an argument of the wrong type: a text by itself, anything else by its type."""
    return thing if isinstance(thing, str) else f"an object of type {type(thing).__name__}"


def _from_tensor(tensor: torch.Tensor, num_layers: int) -> SteeringVectors:
    if tensor.dim() != 2 or tensor.shape[0] != num_layers:
        raise ConfigError(
            "vectors",
            f"tensor of shape {tuple(tensor.shape)}",
            rule=f"must have two dimensions, one row for each of the model's {num_layers} "
            "decoder layers",
            fix="Use rows of zeros for layers that should not be steered",
        )
    vectors = SteeringVectors().shaped(width=tensor.shape[1], num_layers=num_layers)
    vectors.to(tensor.device).set_vectors(tensor)
    return vectors.requires_grad_(False)
