"""The frozen base in 4 or 8 bits: for everything that reads it, or for the rollouts alone.

Where everything reads the same quantised base, engine and update agree. QLoRA (arXiv 2305.14314)
and QeRL (arXiv 2510.11696) train low-rank matrices on such a base, and here the vectors are
trained on it. Where only the rollouts are sampled from a quantised copy, as in FlashRL (Liu et al.
2025), sampler and trainer differ, and the loss needs importance weights; see `TruncatedImportance`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.model.quantized_linear import (
    Bits,
    QuantizedLinear,
    QuantizedWeight,
    quantized_linear,
)
from steer_lightning.model.replaced_forward import ForwardMethod, replaced_forwards
from steer_lightning.steering import Steering

log = logging.getLogger(__name__)

KEY = "model.quantization"

Where = Literal["both", "rollouts"]
"""Who reads the quantised base: rollouts and update, or the rollouts of training alone."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Keeps the weights of the base's linear layers in 4 or 8 bits; see `QuantizedWeight`.

    Embeddings, the output layer, norms and biases stay as they are. The base is read from its
    checkpoint as usual and quantised layer by layer, so the memory of the host holds it once as a
    whole.

    Attributes:
        bits: Number of bits of a weight, 4 or 8.
        where: `both`, for one quantised base that everything reads, or `rollouts`, for a quantised
            copy beside the whole base, from which training completions are sampled. The copy needs
            memory of its own, and a loss with a correction unless its objective is `Likelihood`.
    """

    bits: Bits = 4
    where: Where = "both"

    def __post_init__(self) -> None:
        """Raises a ConfigError for values that are not known."""
        for name, known in (("bits", get_args(Bits)), ("where", get_args(Where))):
            value = getattr(self, name)
            if value not in known:
                rule = f"must be {known[0]!r} or {known[1]!r}"
                raise ConfigError(f"{KEY}.{name}", value, rule=rule)

    def check_steering(self, steering: Steering) -> None:
        """Raises a ConfigError for kinds that are made for weights which would be quantised."""
        if steering.needs_weights:
            raise ConfigError(
                "model.steering",
                type(steering).__name__,
                rule=f"can't be used with {KEY}, which is {self.bits} bits",
                why="It is made for linear layers with plain weights, which such a base lacks",
                fix=f"Train vectors, LoReFT, BitFit or LoRA, or set {KEY}: null",
            )

    def check_engine(self, engine: Any) -> None:
        """Raises a ConfigError for engines that run elsewhere, which load a base of their own."""
        if hasattr(engine, "before_load"):
            raise ConfigError(
                KEY,
                f"{self.bits} bits",
                rule=f"can't be combined with model.engine = {type(engine).__name__}",
                why="Its servers load the base themselves, as it is stored, and would answer as "
                "another model than the quantised one",
                fix=f"Set {KEY}: null, or use steer_lightning.rollout.DecodeEngine",
            )

    def check_sharding(self, shards: bool) -> None:
        """Raises a ConfigError if each process holds only a part of the base."""
        if shards:
            raise ConfigError(
                KEY,
                f"{self.bits} bits",
                rule="can't be combined with trainer.strategy: fsdp or fsdp2",
                why="They divide weights among processes, but not the codes of quantised ones",
                fix=f"Set trainer.strategy: ddp, or {KEY}: null",
            )

    def check_base(self, empty: Any) -> None:
        """Raises a ConfigError if a base can't be quantised.

        Args:
            empty: Base without its weights, on the meta device.
        """
        why = ""
        if getattr(empty.config, "quantization_config", None) is not None:
            why = "Its checkpoint is quantised already"
        elif not plain_linears(empty):
            why = f"{type(empty).__name__} has no nn.Linear besides its output layer"
        if why:
            rule = "can't be used with this model.base"
            raise ConfigError(KEY, f"{self.bits} bits", rule=rule, why=why, fix=f"Set {KEY}: null")


def plain_linears(model: Any) -> dict[str, nn.Linear]:
    """Returns the linear layers that are quantised, by name: all except the output layer."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head
    }


def num_bytes(model: nn.Module) -> int:
    """Counts the bytes of all weights and buffers; tied ones count once."""
    tensors = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return sum(x.numel() * x.element_size() for x in tensors.values())


def quantize_base(model: Any, bits: Bits) -> Any:
    """Quantises the linear layers of a base in place, one after another.

    Args:
        model: Language model of transformers.
        bits: Number of bits of each weight.

    Returns:
        The same model.
    """
    before, layers = num_bytes(model), plain_linears(model)
    count, numbers = len(layers), sum(layer.weight.numel() for layer in layers.values())
    share = numbers / sum(weight.numel() for weight in model.parameters())
    for name in list(layers):
        parent, _, child = name.rpartition(".")
        # popped, so that the weights of each layer are freed before the next one is quantised
        setattr(model.get_submodule(parent), child, QuantizedLinear(layers.pop(name), bits))
    after = num_bytes(model)
    log.info(
        "quantization: %d linear layers, %.0f %% of the base's numbers, are in %d bits; the base "
        "takes %.1f MB instead of %.1f MB",
        count,
        100 * share,
        bits,
        after / 2**20,
        before / 2**20,
    )
    return model


def told_precision(policy: Any) -> str:
    """Returns the data type of a base with the bits of its linear layers, for the terminal.

    Args:
        policy: `Policy` whose base is loaded.
    """
    chosen: Quantization | None = policy.quantization
    if chosen is None:
        return f"{policy.model.dtype}"
    when = "" if chosen.where == "both" else " in rollouts"
    return f"{policy.model.dtype}, linear layers in {chosen.bits} bits{when}"


class QuantizedCopy:
    """A quantised copy of a base's linear layers, which stands in for them in rollouts.

    Weights of the base, their names and their hash are left unchanged.

    Args:
        policy: `Policy` whose base is loaded and on its device.
        bits: Number of bits of each weight.
    """

    def __init__(self, policy: Any, bits: Bits) -> None:
        of_base = policy.steering.base_name  # LoRA puts linear layers of its own into the model
        self._layers = [
            (layer, QuantizedWeight(layer.weight, bits))
            for name, layer in plain_linears(policy.model).items()
            if of_base(f"{name}.weight") is not None
        ]
        log.info(
            "quantization: the rollouts of training are sampled from a copy of %d linear layers in "
            "%d bits, which takes %.1f MB more",
            len(self._layers),
            bits,
            sum(num_bytes(weight) for _, weight in self._layers) / 2**20,
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the copy stand in for the base's own layers within the block."""
        with ExitStack() as stack:
            for layer, weight in self._layers:
                stack.enter_context(replaced_forwards([layer], partial(_instead, layer, weight)))
            yield


def _instead(layer: nn.Linear, weight: QuantizedWeight, plain: ForwardMethod) -> ForwardMethod:
    """Returns a forward that reads a copy of the weight, but the bias of the layer of that time."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        return quantized_linear(x, weight, layer.bias)

    return forward


def while_sampling(policy: Any) -> Callable[[], AbstractContextManager[None]]:
    """Returns a function that makes the context in which training completions are sampled.

    Args:
        policy: `Policy` whose base is loaded and on its device.
    """
    chosen: Quantization | None = policy.quantization
    if chosen is None or chosen.where == "both":
        return nullcontext
    return QuantizedCopy(policy, chosen.bits).in_place
