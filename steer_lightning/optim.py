"""The optimizers, the gradient clips and the learning-rate schedule."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


DEFAULTS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0}
"""Settings of the default optimizer that differ, or may differ, from the defaults of AdamW. The
learning rate is for vectors with `scale: kl`."""

LOW_RATE = 5e-3
"""Learning rate below which vectors in units of `kl` hardly move; rates for other units are."""


def default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Makes AdamW without weight decay, which would pull the vectors back to zero."""
    return torch.optim.AdamW(parameters, **DEFAULTS)


def default_settings() -> dict[str, Any]:
    """Returns the default optimizer as a configuration spells it out, with all its settings."""
    every = inspect.signature(torch.optim.AdamW).parameters
    own = {name: x.default for name, x in every.items() if x.default is not x.empty}
    return {"class_path": "torch.optim.AdamW", "init_args": {**own, **DEFAULTS}}


class AdamWByKind(torch.optim.AdamW):
    """AdamW whose learning rate depends on the kind of change that is trained.

    The class is for configurations that consist of several files: the file for a model holds the
    rates, and the file for the trained parameters names the kind. The two can't be paired wrongly,
    whatever the order of the files.

    Args:
        params: Parameters or parameter groups, in any form that torch accepts.
        kind: Name of the class that is trained, such as `LoRA`. If `model.steering` has another
            class, the configuration is refused before the model loads.
        rates: Learning rate of each kind.
        weight_decay: Weight decay as in torch; it pulls the trained parameters towards the base.

    Attributes:
        kind: Name of the class that is trained.

    Raises:
        ConfigError: If there is no rate for the kind.
    """

    def __init__(
        self, params: Any, kind: str, rates: dict[str, float], weight_decay: float
    ) -> None:
        if kind not in rates:
            raise ConfigError(
                "model.optimizer.init_args.kind",
                kind,
                rule="model.optimizer.init_args.rates has rates for "
                f"{', '.join(rates) or 'nothing'} only",
                fix="Add the rate of this kind, or use torch.optim.AdamW with an lr",
            )
        super().__init__(params, lr=rates[kind], weight_decay=weight_decay)
        self.kind = kind


class NormClip(nn.Module):
    """Scales the gradient down to a fixed norm; the paper clips at 2.0.

    Args:
        max_norm: Largest norm of the gradient; above 0.
    """

    def __init__(self, max_norm: float = 2.0) -> None:
        super().__init__()
        if not max_norm > 0:
            raise ConfigError("model.gradient_clip.max_norm", max_norm, rule="must be above 0")
        self.max_norm = max_norm

    def forward(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """Clips the gradients in place and returns their norm before the clip, a scalar."""
        return nn.utils.clip_grad_norm_(parameters, self.max_norm)


class RunningNormClip(nn.Module):
    """Scales the gradient down to its own running norm, so that no single batch outweighs others.

    With summed log-probabilities a few rare tokens can make the gradient of one batch many times as
    long as that of the next, and no fixed bound fits all models. The bound here is an exponential
    average of past norms, each counted as at most `tail` times the average, so that an outlier
    can't raise the bound by itself. The first batches define the bound.

    Args:
        decay: Decay of the average; 0.9 averages over about 10 steps.
        tail: Largest factor by which one norm may exceed the average; at least 1.
    """

    running: torch.Tensor

    def __init__(self, decay: float = 0.9, tail: float = 3.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(
                "model.gradient_clip.decay", decay, rule="must be at least 0 and below 1"
            )
        if not tail >= 1:
            raise ConfigError("model.gradient_clip.tail", tail, rule="must be at least 1")
        self.decay, self.tail = decay, tail
        self.register_buffer("running", torch.zeros(()))  # 0: no norm seen yet

    @torch.no_grad()
    def forward(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        """Clips the gradients in place and returns their norm before the clip, a scalar."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if norm > 0:  # a batch without signal says nothing about the typical norm
            if self.running == 0:
                self.running.copy_(norm)
            capped = torch.minimum(norm, self.tail * self.running)
            self.running.mul_(self.decay).add_((1 - self.decay) * capped)
            for gradient in gradients:
                gradient.mul_((self.running / norm).clamp(max=1.0))
        return norm


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedule of the learning rate: a warm-up, then a constant rate or a cosine down to 0.

    Attributes:
        kind: Shape of the schedule after the warm-up.
        warmup: Share of the run's steps during which the rate rises from 0; 0.03 in the paper.
    """

    kind: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.03

    def __post_init__(self) -> None:
        """Raises a ConfigError if the warm-up is out of range."""
        if not 0 <= self.warmup < 1:
            raise ConfigError(
                "model.schedule.warmup",
                self.warmup,
                rule="must be a share of the run, at least 0 and below 1",
            )

    def build(
        self, optimizer: torch.optim.Optimizer, num_steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Makes the scheduler for a run of `num_steps` optimizer steps."""
        warmup = round(self.warmup * num_steps)

        def factor(step: int) -> float:
            if step < warmup:
                return (
                    step + 1
                ) / warmup  # not 0 at the first step, whose rollouts would be wasted
            if self.kind == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def state_facts(optimizer: torch.optim.Optimizer) -> tuple[int, list[str]]:
    """Returns the size of an optimizer's state in bytes, and the dtypes of its moments.

    The size includes counters and bitsandbytes' quantisation tables. A dtype is named if a tensor
    of that dtype has as many elements as its parameter.
    """
    total, kinds = 0, set()
    for parameter, state in optimizer.state.items():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                total += value.numel() * value.element_size()
                if value.numel() == parameter.numel():
                    kinds.add(str(value.dtype).removeprefix("torch."))
    return total, sorted(kinds)


def _check_rate(optimizer: torch.optim.Optimizer, trained: nn.Module, is_default: bool) -> None:
    """Refuses, or warns of, learning rates that are meant for something else.

    Args:
        optimizer: Optimizer with the rate.
        trained: Module that is trained.
        is_default: Whether the optimizer is the default one for sure; one of a configuration has
            the same class and settings.
    """
    rate, key = optimizer.defaults.get("lr"), "model.optimizer.init_args.lr"
    scale = getattr(trained, "scale", None)  # vectors only
    if not isinstance(rate, float) or "betas" not in optimizer.defaults:
        return  # rates of other optimizers than Adam's family say nothing about the step
    if scale is None and rate >= DEFAULTS["lr"]:
        raise ConfigError(
            key,
            rate,
            rule=f"is a rate for vectors with scale: kl, and breaks {type(trained).__name__}",
            why="Rates of vectors are in units of their effect, and rates of weights are not",
            fix="Set a rate such as 1e-5 for all weights, or 3e-4 for LoRA",
        )
    if scale in ("rms", "none") and is_default:
        raise ConfigError(
            key,
            rate,
            rule=f"is the default, which is for vectors with scale: kl, and not for {scale}",
            why="The unit of the rate is another one",
            fix="Set a rate, or model.steering.scale: kl",
        )
    if scale in ("rms", "none") and rate == DEFAULTS["lr"]:  # spelled out by a configuration
        log.warning(
            "model.optimizer.init_args.lr = %g is the default, which is for vectors with scale: "
            "kl; with rms or none, the unit of the rate is another one. Make sure that it is meant",
            rate,
        )
    if scale == "kl" and rate < LOW_RATE:
        log.warning(
            "model.optimizer.init_args.lr = %g is low for vectors with scale: kl, whose default is "
            "%g: the reward may stay flat. A rate of an earlier version of this package, or of "
            "the paper, belongs to model.steering.scale: rms or none",
            rate,
            DEFAULTS["lr"],
        )


def check_optimizer(
    factory: Callable[[Any], torch.optim.Optimizer], trained: nn.Module, device: torch.device
) -> None:
    """Tries the optimizer on a gradient of zeros, before a model is loaded.

    Args:
        factory: Maker of the optimizer, as configured.
        trained: Module that is trained, as `Steering.build` makes it.
        device: Device on which the module will be trained.

    Raises:
        ConfigError: If the optimizer refuses its arguments, its learning rate is for another kind,
            its step needs a closure, it has no kernel for the device, or an 8-bit optimizer would
            silently keep 32-bit state.
    """
    # an 8-bit optimizer keeps the state of small parameters in 32 bits, so try the smallest one
    name, least = min(trained.named_parameters(), key=lambda item: item[1].numel())
    weight = nn.Parameter(torch.zeros(least.shape, device=device))
    try:
        optimizer = factory([weight])
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError("model.optimizer", UNKNOWN, rule=str(error).rstrip(".")) from error
    if isinstance(optimizer, AdamWByKind):
        _check_kind(optimizer, type(trained).__name__)
    _check_rate(optimizer, trained, factory is default_optimizer)
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
    weight.grad = torch.zeros_like(weight)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            "model.optimizer",
            kind,
            rule=f"can't take a step on {device.type}",
            why=" ".join(str(error).split()).rstrip("."),
            fix="Use torch.optim.AdamW, which runs everywhere; the state of the vectors is small",
        ) from error
    _check_8bit(optimizer, f"{name} of model.steering = {type(trained).__name__}", weight.numel())


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
