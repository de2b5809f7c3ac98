"""In which order prompts are drawn for training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class PromptOrder(Protocol):
    """Draws prompts, by their number among the training prompts; goes on exactly from its state.

    The same on every process: it may depend on what it is told alone. An order whose attribute
    `learns_from_rewards` is false is not told any rewards.
    """

    def start(self, num_prompts: Any, seed: Any, /) -> Any:
        """Begins, before anything else is asked."""
        ...

    def take(self, count: Any, without: Any, /) -> Any:
        """Draws `count` different prompts, none of the collection `without`; returns a list.

        Fewer only if there are no more.
        """
        ...

    def record(self, numbers: Any, rewards: Any, /) -> Any:
        """Is told the rewards (b, G) of the prompts of a step, NaN where unscored."""
        ...

    def state_dict(self) -> Any:
        """What a checkpoint keeps."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Goes on from there."""
        ...


class Shuffled:
    """Each prompt once, in an order from (seed, round) alone, then anew; whatever the rewards."""

    learns_from_rewards = False

    def start(self, num_prompts: int, seed: int) -> None:
        """See `PromptOrder`."""
        self._num_prompts, self._seed = num_prompts, seed
        self._turn(0)

    def _turn(self, number: int) -> None:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        self._order = torch.randperm(self._num_prompts, generator=generator).tolist()
        self._round, self._taken = number, 0

    def take(self, count: int, without: Collection[int] = ()) -> list[int]:
        """See `PromptOrder`; a rest too small for `count` is left out."""
        found: list[int] = []
        out = set(without)
        count = min(count, self._num_prompts - len(out))
        if self._num_prompts - self._taken < count:
            self._turn(self._round + 1)
        while len(found) < count:
            if self._taken == self._num_prompts:  # so many of them were to be left out
                self._turn(self._round + 1)
            number = self._order[self._taken]
            self._taken += 1
            if number not in out:
                found.append(number)
                out.add(number)
        return found

    def record(self, numbers: list[int], rewards: torch.Tensor) -> None:
        """Nothing depends on rewards."""

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands."""
        return {"round": self._round, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._turn(state["round"])
        self._taken = state["taken"]
