"""The protocol of a rollout engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from steer_lightning.types import Completion

OnCompletion = Callable[[int, Completion], None]
"""Function that takes the number of a row in the batch and its completion."""


def ignore(row: int, completion: Completion) -> None:
    """Does nothing; for callers that only want the finished rollouts."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Answers prompts with the current policy.

    `steer_lightning.testing.check_engine` checks an engine. It may have further methods, as
    `VLLMEngine` has: `before_load`, to refuse settings before the base is loaded; `sample_ahead`,
    for `model.max_staleness`; and `metrics`, which are logged under `engine/`.
    """

    def setup(self, policy: Any, /) -> Any:
        """Takes the `Policy`; called once, when the model is loaded and on its device."""
        ...

    def generate(
        self, prompts: Any, sampling: Any, /, *, seed: Any, step: Any, on_completion: Any
    ) -> Any:
        """Takes a list of `Prompt` and a `Sampling`.

        Returns `Rollouts` with G completions of each prompt. A completion must depend only on
        (seed, step, prompt id, sample), and not on the rest of the batch.

        An engine may call `on_completion(row, completion)`, with a `Completion`, as soon as a row
        has ended, so that the row is scored while others are still being sampled. Rows without a
        call are scored at the end.
        """
        ...

    def sync(self, steering: Any, /) -> Any:
        """Takes over the trained parameters, a `Steering`, after each update."""
        ...
