"""A curriculum: prompts that the model solves only sometimes are drawn more often."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from steer_lightning.errors import ConfigError


class ByPassRate:
    """Draws each prompt with a probability proportional to p (1 - p) + floor; p is its pass rate.

    p (1 - p) is the variance of a reward of 0 or 1, and so the learning that a group promises: most
    at one half, nothing if all or none of its completions pass (learnability, arXiv 2502.12272). p
    is an average over the prompt's past groups, in which later groups weigh more, since the model
    changes. A prompt without a measurement counts as the mean of those that have one. The draws of
    one step are without replacement. Those of different steps are not: a prompt may be drawn again
    before all others have been drawn. This assumes rewards that tell right from wrong
    (`passes_at`), and pass rates that change slowly. If all prompts are alike, they are drawn
    uniformly.

    Args:
        floor: Number above 0 that keeps solved and hopeless prompts in the draw, so that they are
            measured again. With the default, they are about ten times rarer than prompts with a
            pass rate of one half.
        decay: Weight of the past in the average; 0 uses only the last group.
        passes_at: Smallest reward of a completion that passes.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, floor: float = 0.025, decay: float = 0.5, passes_at: float = 0.5) -> None:
        if not 0 < floor < float("inf"):
            raise ConfigError(
                "data.order.floor",
                floor,
                rule="must be above 0",
                why="A prompt that all completions have once solved, or failed, would never be "
                "drawn again",
            )
        if not 0 <= decay < 1:
            raise ConfigError("data.order.decay", decay, rule="must be at least 0 and below 1")
        self.floor, self.decay, self.passes_at = floor, decay, passes_at

    def start(self, num_prompts: int, seed: int) -> None:
        """Starts the order; see `PromptOrder.start`."""
        self._seed, self._draws = seed, 0
        self.rates = torch.full((num_prompts,), float("nan"))

    def weights(self) -> torch.Tensor:
        """Computes the weights (number of prompts,) float64, proportional to the probabilities."""
        known = ~self.rates.isnan()
        teaches = (self.rates * (1 - self.rates)).double()
        typical = teaches[known].mean() if known.any() else teaches.new_tensor(0.25)
        return torch.where(known, teaches, typical) + self.floor

    def take(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Draws prompts; see `PromptOrder.take`."""
        weights = self.weights()
        weights[list(without)] = 0.0
        count = min(count, int((weights > 0).sum()))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._draws)
        self._draws += 1
        # the indices of the largest log w + Gumbel noise are a weighted draw without replacement
        uniforms = torch.rand(len(weights), generator=generator, dtype=torch.float64)
        keys = weights.log() - (-uniforms.log()).log()
        found: list[int] = keys.topk(count).indices.tolist()
        return found

    def record(self, numbers: list[int], rewards: torch.Tensor) -> None:
        """Updates the pass rates; a group without scores leaves its prompt's rate unchanged."""
        scored = ~rewards.isnan()
        passed = ((rewards >= self.passes_at) & scored).sum(1) / scored.sum(1)
        index = torch.tensor(numbers)
        before = self.rates[index]
        kept = torch.where(before.isnan(), passed, before)
        after = self.decay * kept + (1 - self.decay) * passed
        self.rates[index] = torch.where(passed.isnan(), before, after)

    def state_dict(self) -> dict[str, Any]:
        """Returns the pass rates, 4 bytes per prompt, and the number of draws so far."""
        return {"draws": self._draws, "rates": self.rates.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the state in a checkpoint."""
        self._draws, self.rates = state["draws"], state["rates"].clone()
