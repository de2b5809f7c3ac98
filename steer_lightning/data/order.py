"""Draws prompts for training: each once an epoch, or in an order defined by the user."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class PromptOrder(Protocol):
    """Draws prompts, by their number among the training prompts; resumes exactly from its state.

    An order draws the same prompts on every process, so it may depend only on the arguments of its
    methods. If its attribute `learns_from_rewards` is false, `record` is not called.
    """

    def start(self, num_prompts: Any, seed: Any, /) -> Any:
        """Starts the order; it is called before any other method."""
        ...

    def take(self, count: Any, without: Any, /) -> Any:
        """Draws `count` different prompts, none from the collection `without`; returns a list.

        It returns fewer only if no more exist.
        """
        ...

    def record(self, numbers: Any, rewards: Any, /) -> Any:
        """Receives the rewards (b, G) of a step's prompts, NaN where unscored."""
        ...

    def state_dict(self) -> Any:
        """Returns the state for a checkpoint."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Continues from the state in a checkpoint."""
        ...


class Shuffled:
    """Draws each prompt once, in an order that depends only on (seed, round), then repeats."""

    learns_from_rewards = False

    def start(self, num_prompts: int, seed: int) -> None:
        """Starts the order; see `PromptOrder.start`."""
        self._num_prompts, self._seed = num_prompts, seed
        self._turn(0)

    def _turn(self, number: int) -> None:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        self._order = torch.randperm(self._num_prompts, generator=generator).tolist()
        self._round, self._taken = number, 0

    def take(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Draws prompts; the end of a round that is too small for `count` is skipped."""
        found: list[int] = []
        out = set(without)
        count = min(count, self._num_prompts - len(out))
        if self._num_prompts - self._taken < count:
            self._turn(self._round + 1)
        while len(found) < count:
            if self._taken == self._num_prompts:  # too many prompts of the round are in `without`
                self._turn(self._round + 1)
            number = self._order[self._taken]
            self._taken += 1
            if number not in out:
                found.append(number)
                out.add(number)
        return found

    def record(self, numbers: list[int], rewards: torch.Tensor) -> None:
        """Does nothing: the order does not depend on rewards."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the order."""
        return {"round": self._round, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the position of a checkpoint."""
        self._turn(state["round"])
        self._taken = state["taken"]
