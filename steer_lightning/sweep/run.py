"""The run of all experiments of a sweep, side by side on one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.rewards import RewardPool
from steer_lightning.sweep.joint_calls import JointCalls
from steer_lightning.sweep.lane_module import LOAD, LaneModule
from steer_lightning.sweep.lanes import COLLECTIVE, Carrier, Lane, Lanes, State
from steer_lightning.sweep.meeting import CutOff, Meeting
from steer_lightning.sweep.shared_base import SharedBase, copy_of
from steer_lightning.system.allocator import share_between_threads
from steer_lightning.system.collectives import passing, world_size
from steer_lightning.training.resume import get_random_states, set_random_states

Crew = list[Lane]
"""Experiments whose rows share flights and packed sequences."""


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
        num_crews: Number of parts into which they are divided; the joint calls of one part run
            while experiments of another one go on. Default: see `most_crews`.
        before_turn: Function called with the number of an experiment before it goes on.
        after_turn: Function called with the number of an experiment once it waits or has ended.
    """

    def __init__(
        self,
        experiments: Sequence[Prepared],
        *,
        num_crews: int | None = None,
        before_turn: Callable[[int], None] = lambda number: None,
        after_turn: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._experiments, self._num_crews = experiments, num_crews
        self._before_turn, self._after_turn = before_turn, after_turn
        self._bases: dict[int, SharedBase] = {}  # by the number of the experiment
        self._pools: list[RewardPool] = []
        self._meeting = Meeting(self._is_failing)

    def run(self) -> list[Lane]:
        """Runs all experiments to their ends.

        Returns:
            A lane for each, with its result or its error.

        Raises:
            ConfigError: If an experiment refuses its settings before the base is loaded; then none
                of them has trained.
            RuntimeError: If an experiment fails before the base is loaded.
        """
        functions = [self._function(experiment) for experiment in self._experiments]
        share_between_threads()  # else each experiment's thread would keep memory for a pass
        lanes = Lanes(functions, before_turn=self._begin_turn, after_turn=self._end_turn)
        try:
            with passing(self._meeting.door):
                self._run(lanes)
                self._meeting.end(lanes.all)
        except CutOff as cut_off:
            raise cut_off.error from None
        finally:
            for pool in self._pools:
                pool.close()
        return lanes.all

    def _run(self, lanes: Lanes) -> None:
        meet = self._meeting_first(lanes.all)
        lanes.run_until(LOAD, meet)  # each checks its settings
        waiting = [lane for lane in lanes.all if lane.state is State.WAITING]
        crews = self._divided(waiting)
        if waiting:
            with dividing_threads(len(crews)):
                calls = [
                    self._meeting_first(lanes.all, carry_out) for carry_out in self._load(crews)
                ]
                lanes.run(crews, calls)

    def _meeting_first(self, lanes: Sequence[Lane], calls: Carrier | None = None) -> Carrier:
        """Returns a function that also carries out the collective calls of all lanes."""

        def carry_out(kind: str, chosen: Sequence[Lane]) -> None:
            if kind == COLLECTIVE:
                self._meeting.meet(lanes)
            else:
                assert calls is not None  # before the base is loaded, lanes make no other calls
                calls(kind, chosen)

        return carry_out

    def _is_failing(self, number: int) -> bool:
        trainer = self._experiments[number].module._trainer
        return trainer is not None and bool(trainer.interrupted)

    def _function(self, experiment: Prepared) -> Callable[[Lane], Any]:
        def run(lane: Lane) -> Any:
            experiment.module.lane = lane
            self._meeting.enter(lane)
            return experiment.fit()

        return run

    def _begin_turn(self, lane: Lane) -> None:
        set_random_states(self._experiments[lane.number].random_states)
        if lane.number in self._bases:
            self._bases[lane.number].begin_serving(lane.owner)
        self._before_turn(lane.number)

    def _end_turn(self, lane: Lane) -> None:
        self._after_turn(lane.number)
        if lane.number in self._bases:
            self._bases[lane.number].end_serving(lane.owner)
        self._experiments[lane.number].random_states = get_random_states()
        if self._bases or lane.error is None:
            return
        if not isinstance(lane.error, Exception):  # to stop is asked of all experiments
            raise lane.error
        raise _named(lane.error, self._experiments[lane.number].name) from lane.error

    def _divided(self, lanes: Sequence[Lane]) -> list[Crew]:
        count = max(1, min(self._num_crews or self._most_crews(), len(lanes)))
        # neighbours in a grid, such as seeds of one rate, take similar time: deal them out
        crews = [list(lanes[k::count]) for k in range(count)]
        for crew in crews:
            for owner, lane in enumerate(crew):
                lane.owner = owner
        return crews

    def _most_crews(self) -> int:
        """Returns 2 where a second thread pays, else 1.

        Small operations leave most cores of a CPU idle, and a second crew uses them. More than two
        would wait for each other, since Python runs one thread at a time. With several processes,
        the order in which experiments tell each other something must be the same in all of them.
        """
        device = self._experiments[0].module.trainer.strategy.root_device
        has_threads = device.type == "cpu" and torch.get_num_threads() > 1
        return 2 if has_threads and world_size() == 1 else 1

    def _load(self, crews: Sequence[Crew]) -> list[JointCalls]:
        """Loads the base once, and gives it to all experiments."""
        for crew in crews:
            modules = [self._experiments[lane.number].module for lane in crew]
            self._share_pool(modules, len(crews))
        first = self._experiments[crews[0][0].number].module
        model = first.policy.load_base().to(first.trainer.strategy.root_device)
        models = [model, *(copy_of(model) for _ in crews[1:])]
        calls = []
        for crew, own in zip(crews, models, strict=True):
            modules = [self._experiments[lane.number].module for lane in crew]
            for module in modules:
                module.policy.adopt(own)
            base = SharedBase([module.policy for module in modules])
            self._bases.update((lane.number, base) for lane in crew)
            calls.append(JointCalls(base, modules[0].engine, len(crews), sum(map(len, crews))))
            for lane in crew:
                lane.state, lane.answer = State.READY, torch.get_num_threads()
        return calls

    def _share_pool(self, modules: Sequence[LaneModule], num_crews: int) -> None:
        """Lets one pool score for all experiments of a crew."""
        host = modules[0].reward_pool.emptied(num_crews)
        for module in modules:
            module.reward_pool.hand_over(host)
        host.start()  # its processes load the rewards meanwhile
        self._pools.append(host)


def _named(error: Exception, name: str) -> Exception:
    """Returns an error that also names the experiment."""
    if isinstance(error, ConfigError):
        return error.at(f"experiment {name}: {error.key}")
    return RuntimeError(f"experiment {name}: {type(error).__name__}: {error}")


@contextmanager
def dividing_threads(count: int) -> Iterator[None]:
    """Divides the threads of torch among several threads of Python within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
