"""Harm that one of several processes does."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch.callbacks import Callback

from steer_lightning.errors import ConfigError
from steer_lightning.losses import PolicyGradient
from steer_lightning.system.collectives import rank
from steer_lightning.types import Completion, LossInputs, LossOutput


class Dies(Callback):
    """One process dies of SIGKILL behind a step."""

    def __init__(self, process: int, step: int) -> None:
        super().__init__()
        self.process, self.step = process, step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.process:
            os.kill(os.getpid(), signal.SIGKILL)


class IsAskedToStop(Callback):
    """One process alone gets a signal, as from its node's administrator."""

    def __init__(self, process: int, step: int, name: str) -> None:
        super().__init__()
        self.process, self.step, self.name = process, step, name

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.process:
            os.kill(os.getpid(), getattr(signal, self.name))


class RefusesOnOne(Callback):
    """The second process alone refuses its settings, before it loads anything."""

    def setup(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_rank == 1:
            raise ConfigError("trainer.callbacks", "here", rule="is not installed")


class FailsOnOne:
    """A reward that fails in the second process alone, from its second batch on."""

    in_process = True

    def __init__(self) -> None:
        self.num_batches = 0

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        self.num_batches += 1
        if rank() == 1 and self.num_batches > 1:
            raise LookupError("the judge's key is missing here")
        return [float("a" in row.text) for row in completions]


class NanOnOne(PolicyGradient):
    """A loss that is not finite in the second process alone."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        output = super().__call__(inputs)
        return replace(output, loss=output.loss * math.nan) if rank() == 1 else output


class SignalIn:
    """A reward that tells completions apart in one process alone; in the others, all are equal."""

    in_process = True

    def __init__(self, process: int) -> None:
        self.process = process

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [float(rank() == self.process and k % 2 == 0) for k in range(len(completions))]
