"""Draws prompts for training, each once an epoch or by an order of one's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class PromptOrder(Protocol):
    """Draws prompts, by their number among the training prompts; goes on exactly from its state.

    It draws the same prompts on every process, so it may depend on nothing but what it is told. An
    order whose attribute `learns_from_rewards` is false is not told any rewards.
    """

    def start(self, num_prompts: Any, seed: Any, /) -> Any:
        """Begins; it is called before anything else."""
        ...

    def take(self, count: Any, without: Any, /) -> Any:
        """Draws `count` different prompts, none of the collection `without`; returns a list.

        It returns fewer only if there are no more.
        """
        ...

    def record(self, numbers: Any, rewards: Any, /) -> Any:
        """Takes note of the rewards (b, G) of a step's prompts, NaN where unscored."""
        ...

    def state_dict(self) -> Any:
        """Returns what a checkpoint keeps."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Goes on where a checkpoint stood."""
        ...


class Shuffled:
    """Draws each prompt once, in an order from (seed, round) alone, then all of them anew."""

    learns_from_rewards = False

    def start(self, num_prompts: int, seed: int) -> None:
        """Begins the order; see `PromptOrder.start`."""
        self._num_prompts, self._seed = num_prompts, seed
        self._turn(0)

    def _turn(self, number: int) -> None:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        self._order = torch.randperm(self._num_prompts, generator=generator).tolist()
        self._round, self._taken = number, 0

    def take(self, count: int, without: Collection[int] = ()) -> list[int]:
        """Draws prompts; a rest of the round that is too small for `count` is left out."""
        found: list[int] = []
        out = set(without)
        count = min(count, self._num_prompts - len(out))
        if self._num_prompts - self._taken < count:
            self._turn(self._round + 1)
        while len(found) < count:
            if self._taken == self._num_prompts:  # too many of the round are in `without`
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
        """Says where the order stands."""
        return {"round": self._round, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a checkpoint stood."""
        self._turn(state["round"])
        self._taken = state["taken"]
