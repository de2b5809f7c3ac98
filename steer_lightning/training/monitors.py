"""The metrics that a run logs, and the refusal of callbacks that monitor other metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from steer_lightning.errors import ConfigError
from steer_lightning.losses import PolicyGradient, needs_of
from steer_lightning.training.validations import has_validations
from steer_lightning.types import LossInputs

PACKAGE = __name__.split(".")[0]
STEP_LOGGER = "RewardLogger"
"""Name of the callback, defined in a higher layer, that logs each step."""


def check_monitors(trainer: L.Trainer, module: Any, data: Any) -> None:
    """Raises a ConfigError for a callback that monitors a metric which nothing logs.

    A user's own callbacks and modules may log further metrics. If there are any, only the names of
    validations and benchmarks are checked, which belong to the package.

    Args:
        trainer: Trainer of the run.
        module: Module of the run, whose steering has been built.
        data: Data module of the run, whose prompts are loaded, or None.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    watching = [
        (callback, callback.monitor)
        for callback in callbacks
        if isinstance(callback, (EarlyStopping, ModelCheckpoint)) and callback.monitor is not None
    ]
    closed = ("validation/", "benchmark/") if not all(map(_is_known, [*callbacks, module])) else ""
    watching = [(callback, name) for callback, name in watching if name.startswith(closed)]
    if not watching:
        return
    logged = [*_of_steps(callbacks, module), *_of_validations(trainer, data)]
    for callback, name in watching:
        own = ("step", "epoch") if isinstance(callback, ModelCheckpoint) else ()
        open_family = name.startswith("update/") and not _tells_its_metrics(module.loss)
        if name not in logged and name not in own and not open_family:
            raise _refusal(callback, name, logged)


def _refusal(callback: Any, name: str, logged: Sequence[str]) -> ConfigError:
    family = name.split("/")[0] + "/"
    alike = [known for known in logged if known.startswith(family)]
    return ConfigError(
        f"{type(callback).__name__}.monitor",
        name,
        rule="nothing logs a metric with this name during the run",
        why=f"The logged metrics are {', '.join(alike or logged) or 'none'}. Metrics of steps "
        "come from the callback RewardLogger, and validation/accuracy is logged if "
        "trainer.val_check_interval makes the run answer the problems of data.val. Metrics of "
        "BenchmarkEval go only to the loggers",
        fix="Monitor one of these"
        if alike
        else "Set trainer.val_check_interval and data.val, and monitor validation/accuracy",
    )


def _is_known(part: Any) -> bool:
    """Whether a part belongs to the package or to Lightning, so that its metrics are known."""
    return type(part).__module__.split(".")[0] in ("lightning", PACKAGE)


def _of_validations(trainer: L.Trainer, data: Any) -> list[str]:
    if not getattr(data, "prompts", {}) or not has_validations(trainer, data):
        return []
    names = ["accuracy", "completion_length", "cut_off_share", "num_unscored"]
    if len(data.prompts["val"]) > 1:
        names += ["accuracy_low", "accuracy_high"]
    return [f"validation/{name}" for name in names]


def _of_steps(callbacks: Sequence[Any], module: Any) -> list[str]:
    """Returns the metrics of `RewardLogger`, if the run has it."""
    kinds = {kind.__name__ for callback in callbacks for kind in type(callback).__mro__}
    if STEP_LOGGER not in kinds:
        return []
    reward = module.reward
    found = {
        "reward": ["mean", "std", "no_signal_share", "num_unscored", *reward.parts],
        "completion": ["length_mean", "length_max", "cut_off_share", "entropy"],
        "update": ["loss", "num_completions", "gradient_norm", "learning_rate", "skipped"],
        "mismatch": [] if needs_of(module.loss).base_sampling else ["mean", "max"],
        "vectors": list(module.policy.steering.metrics()),
        "speed": ["tokens_per_second", "rollout_seconds", "step_seconds"],
    }
    if module.guidance is not None:
        found["guidance"] = ["share", "reward", "ratio", "kl"]
    found["reward"] += ["kl"] if module.kl_in_reward is not None else []
    found["reward"] += [f"{x}/num_{key}" for x in reward.parts for key in reward.outcomes_of(x)]
    if _tells_its_metrics(module.loss):
        found["update"] += module.loss(_made_up()).metrics
    return [f"{family}/{name}" for family, names in found.items() for name in names]


def _tells_its_metrics(loss: Any) -> bool:
    """Whether a loss has only parts of the package, which report the same metrics for any input."""
    parts = [loss]
    if isinstance(loss, PolicyGradient):
        parts += [loss.objective, loss.aggregation, *loss.terms]
        parts += [loss.correction] if loss.correction is not None else []
    return all(map(_is_known, parts))


def _made_up() -> LossInputs:
    """Returns inputs of a loss for one completion of one token."""
    one = torch.ones(1, 1)
    return LossInputs(
        logprobs=-one,
        old_logprobs=-one,
        sampling_logprobs=-one,
        mask=one.bool(),
        advantages=one[0],
        num_rows=1,
        num_tokens=1,
        reference_logprobs=-one,
        entropy=one,
    )
