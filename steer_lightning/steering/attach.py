"""Adds vectors to the output of decoder layers, by forward hooks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.io import load_vectors
from steer_lightning.steering.layers import find_layers
from steer_lightning.steering.vectors import SteeringVectors

log = logging.getLogger(__name__)

BIAS_LAYERS = {f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3")}
"""Layers that end in `residual + mlp.down_proj(x)`, by name: a subclass may end otherwise."""

LayerOutput = torch.Tensor | tuple[torch.Tensor, ...]


class Attachment:
    """Vectors attached to a model; `remove()`, or leaving the `with` block, takes them off.

    Attributes:
        scale: Factor on all vectors; may be changed at any time.
    """

    def __init__(self, layers: nn.ModuleList, vectors: SteeringVectors, scale: float) -> None:
        self.scale = scale
        self._vectors = vectors
        self._layers = [layers[layer] for layer in vectors.layers]
        self._homes = [bias_home(layer) for layer in self._layers]
        self._constant: list[torch.Tensor] = []
        self._folded: list[nn.Linear | None] = [None] * len(self._layers)
        self._handles = [
            layers[layer].register_forward_hook(partial(self._add, row))
            for row, layer in enumerate(vectors.layers)
        ]

    def _add(
        self, row: int, module: nn.Module, args: object, output: LayerOutput
    ) -> LayerOutput | None:
        """`h <- h + scale * v`, in the stream's dtype.

        Older layers return a tuple that starts with h.
        """
        if self._folded[row] is not None:
            return None
        stream = output if isinstance(output, torch.Tensor) else output[0]
        vector = self._constant[row] if self._constant else self._plain(row)
        steered = stream + vector.to(stream)
        return steered if isinstance(output, torch.Tensor) else (steered, *output[1:])

    def _plain(self, row: int) -> torch.Tensor:
        vectors = self._vectors
        return vectors.weight[row, : vectors.width] * (vectors.unit[row] * self.scale)

    @contextmanager
    def constant(self) -> Iterator[None]:
        """While the block runs the vectors do not change: they are multiplied out once.

        A token-by-token loop would do so again for each token and layer. Where a layer ends in
        `residual + down_proj(x)`, its vector becomes the bias of `down_proj` for that time: the
        same sum, without an operation of its own. Without gradients.
        """
        with torch.no_grad():
            rows = range(len(self._layers))
            self._constant = [self._plain(k) for k in rows]
        for row, (home, vector) in enumerate(zip(self._homes, self._constant, strict=True)):
            # a zero vector stays outside: the base's products with a bias differ in the last bit
            if home is not None and bool(vector.any()):
                plain = vector.to(home.weight.dtype)
                home.bias = nn.Parameter(plain, requires_grad=False)
                self._folded[row] = home
        try:
            yield
        finally:
            for home in self._folded:
                if home is not None:
                    home.bias = None  # type: ignore[assignment]  # as nn.Linear itself does
            self._constant, self._folded = [], [None] * len(self._layers)

    def remove(self) -> None:
        """Takes the vectors off; the model is as it was. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def bias_home(layer: nn.Module) -> nn.Linear | None:
    """Where a decoder layer can hold its vector as a bias; None if it can't.

    A layer whose last operation is `residual + down_proj(x)` adds that bias to its output. Layers
    that normalise after the MLP, as in Gemma and OLMo 2, do not.
    """
    # FSDP2 makes a class of its own of a layer's
    if type(layer).__name__.removeprefix("FSDP") not in BIAS_LAYERS:
        return None
    home = layer.get_submodule("mlp.down_proj")
    return home if type(home) is nn.Linear and home.bias is None else None  # not if quantised


def attach(
    model: nn.Module,
    vectors: SteeringVectors | torch.Tensor | str | Path,
    scale: float = 1.0,
    layers_path: str | None = None,
) -> Attachment:
    """Steers a transformers model: every forward pass, `generate` included, adds the vectors.

        with attach(model, "steering_vectors.safetensors"):
            model.generate(**inputs)

    Args:
        model: A transformers causal language model.
        vectors: A loaded object, which is moved to the model's device, the path of a file, or a
            tensor (number of decoder layers, D) of plain vectors.
        scale: Factor on all vectors; 0 is the base model.
        layers_path: Dotted path of the decoder layers, where they are not found by themselves.

    Returns:
        A context manager with `.remove()` and a `scale` that can be changed.

    Raises:
        ConfigError: If the vectors do not fit the model; it shows both widths or layer counts.
            Vectors that fit, but come from a model of another name, are warned of.
    """
    layers = find_layers(model, layers_path)
    if isinstance(vectors, (str, Path)):
        vectors = load_vectors(vectors)
    if isinstance(vectors, torch.Tensor):
        vectors = _from_tensor(vectors, num_layers=len(layers))
    check_fit(vectors, model, len(layers))
    warn_of_another_base(vectors, getattr(model, "name_or_path", ""))
    vectors.to(next(model.parameters()).device)  # once, instead of at every token
    return Attachment(layers, vectors, scale)


def stream_width(model: Any) -> int:
    """Width D of the residual stream, from the model's configuration."""
    return int(model.config.get_text_config().hidden_size)


def check_fit(vectors: SteeringVectors, model: nn.Module, num_layers: int) -> None:
    """Raises a ConfigError if vectors and model differ in width or layer count."""
    found = {"width": vectors.width, "decoder layers": vectors.num_layers}
    needed = {"width": stream_width(model), "decoder layers": num_layers}
    for what, value in found.items():
        if value != needed[what]:
            base = vectors.metadata.get("base_model")
            raise ConfigError(
                "vectors",
                f"{what} {value}",
                rule=f"the model {type(model).__name__} has {what} {needed[what]}",
                why=f"These vectors were trained on {base!r}"
                if base
                else "The vectors are of another model",
                fix="Use vectors of this model, or the model that they were trained on",
            )


def warn_of_another_base(vectors: SteeringVectors, base: str) -> None:
    """Says so if vectors that fit were trained on a model of another name.

    They may well serve: vectors carry over within a family.
    """
    trained_on = vectors.metadata.get("base_model", "")
    if trained_on and base and Path(trained_on).name != Path(base).name:
        log.warning("these vectors were trained on %s, not on %s", trained_on, base)


def _from_tensor(tensor: torch.Tensor, num_layers: int) -> SteeringVectors:
    if tensor.dim() != 2 or tensor.shape[0] != num_layers:
        raise ConfigError(
            "vectors",
            f"tensor of shape {tuple(tensor.shape)}",
            rule=f"must have two dimensions, one row for each of the model's {num_layers} "
            "decoder layers",
            fix="Use rows of zeros for layers that are not to be steered",
        )
    vectors = SteeringVectors(range(num_layers), tensor.shape[1], num_layers).to(tensor.device)
    vectors.set_vectors(tensor)
    return vectors.requires_grad_(False)
