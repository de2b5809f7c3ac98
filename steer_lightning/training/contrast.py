"""The protocol of a contrast: what a direction is the difference of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from steer_lightning.model.policy import Policy
from steer_lightning.training.sample import Sampler


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a contrast reads states with."""

    policy: Policy
    """Loaded policy with `SteeringVectors`, at whose layers and site states are read."""
    sampler: Sampler
    """Samples and scores completions of the base."""
    max_tokens: int
    """Maximum number of tokens in a forward pass, padding included."""


@runtime_checkable
class Contrast(Protocol):
    """Adds up a direction for each layer over batches of prompts, for the command `difference`."""

    def check(self, policy: Any, prompts: Any, /) -> Any:
        """Takes the `Policy`, not loaded yet, and all prompts that will be read.

        Raises a ConfigError if they do not fit the settings.
        """
        ...

    def read(self, prompts: Any, reading: Any, /) -> Any:
        """Takes a list of `Prompt` and a `Reading`, and adds the states of these prompts."""
        ...

    def direction(self) -> Any:
        """Returns the vectors (L, D) float32, of any length; raises a ConfigError without any."""
        ...

    def facts(self) -> Any:
        """Returns a dictionary of counts and settings, for `difference.json`."""
        ...

    def summary(self) -> Any:
        """Returns one line about what has been read so far, for the console."""
        ...
