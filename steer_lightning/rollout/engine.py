"""What a rollout engine must do."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class RolloutEngine(Protocol):
    """Answers prompts with the current policy.

    `steer_lightning.testing.check_engine` checks an engine.
    """

    def setup(self, policy: Any, /) -> Any:
        """Takes the `Policy`, once, when it is loaded and on its device."""
        ...

    def generate(self, prompts: Any, sampling: Any, /, *, seed: Any, step: Any) -> Any:
        """Takes a list of `Prompt` and a `Sampling`.

        Returns `Rollouts` with G completions of each prompt.

        The same ones for the same (seed, step, prompt id, sample), whatever else is in the batch.
        """
        ...

    def sync(self, vectors: Any, /) -> Any:
        """Takes over the `SteeringVectors` after each optimizer step: L x D numbers."""
        ...
