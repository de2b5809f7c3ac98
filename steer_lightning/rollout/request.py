"""What an engine is asked: prompts, and how they are to be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer_lightning.rollout.engine import OnCompletion, ignore
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Request:
    """Prompts that one policy answers in a rollout; requests of several policies may share it."""

    prompts: Sequence[Prompt]
    """B prompts, each of which gets G completions."""
    sampling: Sampling
    """Settings by which the completions are sampled, G among them."""
    seed: int
    """Seed of the run."""
    step: int
    """Number of the training step."""
    on_completion: OnCompletion = ignore
    """Function called with each row and its completion as soon as it has ended."""
