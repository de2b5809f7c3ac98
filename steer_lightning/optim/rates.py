"""The check of a learning rate against the unit of what is trained."""

from __future__ import annotations

import logging
import math

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.optim.adamw import DEFAULTS

log = logging.getLogger(__name__)

LOW_RATE = 5e-3
"""Learning rate of Adam below which vectors in units of `kl` hardly move."""


def check_rate(optimizer: torch.optim.Optimizer, trained: nn.Module, is_default: bool) -> None:
    """Refuses, or warns of, learning rates that are meant for something else.

    Args:
        optimizer: Optimizer with the rate.
        trained: Module that is trained.
        is_default: Whether the optimizer is the default one for sure; one of a configuration has
            the same class and settings.
    """
    rate, key = optimizer.defaults.get("lr"), "model.optimizer.init_args.lr"
    scale = getattr(trained, "scale", None)  # vectors only
    size = size_of_step(optimizer, trained)
    if size is None:
        return
    shown = f"{rate:g}" if size == rate else f"{rate:g}, about {size:.2g} for Adam,"
    if scale is None and size >= DEFAULTS["lr"]:
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
    if scale in ("rms", "none") and rate == DEFAULTS["lr"] and "betas" in optimizer.defaults:
        log.warning(  # spelled out by a configuration
            "model.optimizer.init_args.lr = %g is the default, which is for vectors with scale: "
            "kl; with rms or none, the unit of the rate is another one. Make sure that it is meant",
            rate,
        )
    if scale == "kl" and size < LOW_RATE:
        log.warning(
            "model.optimizer.init_args.lr = %s is low for vectors with scale: kl, whose default is "
            "%g: the reward may stay flat. A rate of an earlier version of this package, or of "
            "the paper, belongs to model.steering.scale: rms or none",
            shown,
            DEFAULTS["lr"],
        )


def size_of_step(optimizer: torch.optim.Optimizer, trained: nn.Module) -> float | None:
    """Returns the rate of Adam whose steps are about as large; None if no rate tells.

    Steps of Adam's family, and those of optimizers that treat each layer alone, change a number by
    the learning rate, as a root mean square. Muon's steps for a matrix of A rows and B columns have
    singular values of about 1, and so a root mean square of 1 / sqrt(max(A, B)), which is
    multiplied by the rate and by a factor that its setting `adjust_lr_fn` selects.

    Args:
        optimizer: Optimizer with the rate.
        trained: Module that is trained; the largest of its steps counts.
    """
    settings = optimizer.defaults
    rate = settings.get("lr")
    if not isinstance(rate, float):
        return None
    if "betas" in settings or getattr(optimizer, "by_layer", False):
        return rate
    if "adjust_lr_fn" not in settings:
        return None  # rates of SGD, for one, say nothing about the step
    if settings["adjust_lr_fn"] == "match_rms_adamw":
        return 0.2 * rate
    shapes = [weight.shape for weight in trained.parameters()]
    return rate * max(math.sqrt(max(1, a / b) / max(a, b)) for a, b in shapes)
