"""The check of an optimizer, before a model is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.optim.adamw import AdamWByKind, default_optimizer
from steer_lightning.optim.rates import check_rate
from steer_lightning.optim.state import state_facts
from steer_lightning.system.out_of_memory import is_out_of_memory

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def check_optimizer(factory: OptimizerFactory, trained: nn.Module, device: torch.device) -> None:
    """Tries the optimizer on a gradient of zeros, before a model is loaded.

    Args:
        factory: Maker of the optimizer, as configured.
        trained: Module that is trained, as `Steering.build` makes it.
        device: Device on which the module will be trained.

    Raises:
        ConfigError: If the optimizer refuses its arguments or the shapes of the parameters, takes
            rows for vectors that are none, its learning rate is for another kind, its step needs a
            closure, it has no kernel for the device, or an 8-bit optimizer would silently keep
            32-bit state.
    """
    # an 8-bit optimizer keeps the state of small parameters in 32 bits, so try the smallest one;
    # some optimizers take matrices only, so try one with each number of axes
    parameters = sorted(trained.named_parameters(), key=lambda item: item[1].numel())
    name, least = parameters[0]
    shapes = {weight.ndim: weight.shape for _, weight in reversed(parameters)}
    weights = [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes.values()]
    try:
        optimizer = factory(weights)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise _refused(factory, shapes, type(trained).__name__, error) from error
    if isinstance(optimizer, AdamWByKind):
        _check_kind(optimizer, type(trained).__name__)
    _check_rows(optimizer, trained)
    check_rate(optimizer, trained, factory is default_optimizer)
    kind = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            "model.optimizer",
            kind,
            rule="evaluates the loss several times in each step",
            why="Each evaluation would need another batch of rollouts",
            fix="Use torch.optim.AdamW or bitsandbytes.optim.AdamW8bit",
        )
    _try_step(optimizer, weights, device)
    _check_8bit(optimizer, f"{name} of model.steering = {type(trained).__name__}", least.numel())


def _refused(
    factory: OptimizerFactory, shapes: dict[int, torch.Size], trained: str, error: Exception
) -> ConfigError:
    """Tells whether the optimizer refuses its arguments or what is trained."""
    rule = " ".join(str(error).split()).rstrip(".")
    try:
        kind = type(factory([nn.Parameter(torch.zeros(1, 1))])).__name__
    except (ValueError, TypeError):
        return ConfigError("model.optimizer", UNKNOWN, rule=rule)
    found = " and ".join(f"{ndim} ({tuple(shapes[ndim])})" for ndim in sorted(shapes))
    return ConfigError(
        "model.optimizer",
        kind,
        rule=f"can't train model.steering = {trained}, whose parameters have axes: {found}",
        why=rule,
        fix="Use torch.optim.AdamW, or MuonByLayer if all parameters are vectors",
    )


def _try_step(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], device: torch.device
) -> None:
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            "model.optimizer",
            type(optimizer).__name__,
            rule=f"can't take a step on {device.type}",
            why=" ".join(str(error).split()).rstrip("."),
            fix="Use torch.optim.AdamW, which runs everywhere; the state of the vectors is small",
        ) from error


def _check_rows(optimizer: torch.optim.Optimizer, trained: nn.Module) -> None:
    if not getattr(optimizer, "by_layer", False) or getattr(trained, "rows_are_vectors", False):
        return
    if all(parameter.ndim == 1 for parameter in trained.parameters()):
        return
    kind = type(trained).__name__
    raise ConfigError(
        "model.optimizer",
        type(optimizer).__name__,
        rule=f"takes each row for a vector, but the rows of model.steering = {kind} are parts of "
        "matrices",
        fix=f"Use torch.optim.AdamW for {kind}, or torch.optim.Muon if it has matrices only",
    )


def _check_kind(optimizer: AdamWByKind, trained: str) -> None:
    if optimizer.kind != trained:
        raise ConfigError(
            "model.optimizer.init_args.kind",
            optimizer.kind,
            rule=f"must be the class that is trained, model.steering = {trained}",
            why="The learning rate would be that of another kind",
            fix=f"Set it to {trained}",
        )


def _check_8bit(optimizer: torch.optim.Optimizer, what: str, num_elements: int) -> None:
    args: Any = getattr(optimizer, "args", None)
    if getattr(args, "optim_bits", 32) == 8 and state_facts(optimizer)[1] != ["uint8"]:
        raise ConfigError(
            "model.optimizer.init_args.min_8bit_size",
            args.min_8bit_size,
            rule=f"must not be above the {num_elements} elements of {what}",
            why="bitsandbytes would silently keep the optimizer's state in 32 bits",
            fix="Set min_8bit_size: 0 for 8-bit state, or use torch.optim.AdamW",
        )
