"""AdamW: the default optimizer, and one whose rate depends on what is trained."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from steer_lightning.errors import ConfigError

DEFAULTS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0}
"""Settings of the default optimizer that differ, or may differ, from the defaults of AdamW. The
learning rate is for vectors with `scale: kl`."""


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
