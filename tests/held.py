"""A run that waits at a known place until its test lets it go on, so that no clock decides.

In a run's folder of work: `hold` makes it wait, and `held` says that it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from steer_lightning.types import Completion

HOLDS, IS_HELD = Path("hold"), Path("held")


def wait(poll: Callable[[], int | None], found: Callable[[], bool], seconds: float = 120) -> None:
    """Waits until something is found; fails if the process ends before, or time does."""
    end = time.monotonic() + seconds
    while not found():
        assert poll() is None, f"ended before, with status {poll()}"
        assert time.monotonic() < end, "not found in time"
        time.sleep(0.01)


def hold() -> None:
    """Waits as long as the file `hold` is there."""
    if HOLDS.exists():
        IS_HELD.touch()
    while HOLDS.exists():
        time.sleep(0.01)


class Held(Callback):
    """Waits before a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            hold()


class HeldVerifier:
    """Accepts completions with an early letter, and waits before those of the third question."""

    in_process = True

    def __init__(self) -> None:
        self.questions: set[str] = set()

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        self.questions.update(row.question for row in completions)
        if len(self.questions) > 2:
            hold()
        return [float(any(letter in row.text for letter in "abcdefghijklm")) for row in completions]
