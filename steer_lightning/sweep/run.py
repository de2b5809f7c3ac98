"""The run of all experiments of a sweep, side by side on one base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.sweep.joint_calls import JointCalls
from steer_lightning.sweep.lane_module import LOAD, LaneModule
from steer_lightning.sweep.lanes import Lane, run_lanes
from steer_lightning.sweep.shared_base import SharedBase
from steer_lightning.training.resume import get_random_states, set_random_states


@dataclass(kw_only=True)
class Prepared:
    """An experiment that is ready to run."""

    name: str
    """Name of the experiment."""
    module: LaneModule
    """Its module, which has not loaded anything."""
    fit: Callable[[], Any]
    """Function that trains it from start to end."""
    random_states: dict[str, Any]
    """Random states with which it starts."""


class SideBySide:
    """Experiments that run side by side on one base.

    Args:
        experiments: Experiments, at least one.
        before_turn: Function called with the number of an experiment before it goes on.
        after_turn: Function called with the number of an experiment once it waits or has ended.
    """

    def __init__(
        self,
        experiments: Sequence[Prepared],
        *,
        before_turn: Callable[[int], None] = lambda number: None,
        after_turn: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._experiments = experiments
        self._before_turn, self._after_turn = before_turn, after_turn
        self._base: SharedBase | None = None
        self._calls: JointCalls

    def run(self) -> list[Lane]:
        """Runs all experiments to their ends.

        Returns:
            A lane for each, with its result or its error.

        Raises:
            ConfigError: If an experiment refuses its settings before the base is loaded; then none
                of them has trained.
        """
        functions = [self._function(experiment) for experiment in self._experiments]
        return run_lanes(
            functions, self._carry_out, before_turn=self._begin_turn, after_turn=self._end_turn
        )

    def _function(self, experiment: Prepared) -> Callable[[Lane], Any]:
        def run(lane: Lane) -> Any:
            experiment.module.lane = lane
            return experiment.fit()

        return run

    def _begin_turn(self, lane: Lane) -> None:
        set_random_states(self._experiments[lane.number].random_states)
        if self._base is not None:
            self._base.begin_serving(lane.number)
        self._before_turn(lane.number)

    def _end_turn(self, lane: Lane) -> None:
        self._after_turn(lane.number)
        if self._base is not None:
            self._base.end_serving(lane.number)
        self._experiments[lane.number].random_states = get_random_states()
        if self._base is None and isinstance(lane.error, ConfigError):
            name = self._experiments[lane.number].name
            raise lane.error.at(f"experiment {name}: {lane.error.key}") from lane.error
        if self._base is None and lane.error is not None:
            raise lane.error

    def _carry_out(self, kind: str, lanes: Sequence[Lane]) -> None:
        if kind == LOAD:
            self._load()
        else:
            self._calls(kind, lanes)

    def _load(self) -> None:
        """Loads the base once, and gives it to all experiments."""
        policies = [experiment.module.policy for experiment in self._experiments]
        first = self._experiments[0].module
        first.policy.load()
        first.policy.model.to(first.trainer.strategy.root_device)
        for policy in policies[1:]:
            policy.prepare()
            policy.adopt(first.policy.model)
        self._base = SharedBase(policies)
        self._calls = JointCalls(self._base, first.engine)
