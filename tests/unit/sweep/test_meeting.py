"""Two processes, each a thread here: their lanes make collective calls in step, or end alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from steer_lightning.sweep.lanes import COLLECTIVE, Lane, Lanes, State
from steer_lightning.sweep.meeting import CutOff, Meeting, OtherProcessError

Run = Callable[["Process", Lane], Any]


class Wire:
    """The exchange of two processes; each object is kept with the process that gave it."""

    def __init__(self) -> None:
        self.given: list[Any] = [None, None]
        self.arrived = threading.Barrier(2, timeout=20)

    def gather(self, process: int, own: Any) -> list[Any]:
        self.given[process] = own
        self.arrived.wait()
        found = list(self.given)
        self.arrived.wait()
        return found


class Process:
    """A process with its lanes; `total` is a collective call of theirs, `add` a joint one."""

    def __init__(self, number: int, meetings: Wire, calls: Wire) -> None:
        self.number, self.calls = number, calls
        self.failing: set[int] = set()
        self.joined: list[list[int]] = []
        self.order: list[int] = []
        self.meeting = Meeting(self.failing.__contains__, lambda own: meetings.gather(number, own))

    def total(self, lane: Lane, value: int, name: str = "total") -> int:
        with self.meeting.door(name) as has_others:
            if not has_others:
                return value
            self.order.append(lane.number)
            return sum(self.calls.gather(self.number, value))

    def carry_out(self, kind: str, chosen: Sequence[Lane]) -> None:
        if kind == COLLECTIVE:
            self.meeting.meet(self.lanes.all)
            return
        self.joined.append([lane.number for lane in chosen])
        for lane in chosen:
            lane.answer = sum(other.request for other in chosen)

    def run(self, functions: Sequence[Run]) -> None:
        def begun(function: Run) -> Callable[[Lane], Any]:
            def run(lane: Lane) -> Any:
                self.meeting.enter(lane)
                return function(self, lane)

            return run

        self.lanes = Lanes([begun(function) for function in functions])
        self.lanes.run([self.lanes.all], [self.carry_out])
        self.meeting.end(self.lanes.all)


def in_two_processes(*functions: Run) -> list[Process]:
    meetings, calls = Wire(), Wire()
    processes = [Process(number, meetings, calls) for number in range(2)]
    threads = [
        threading.Thread(target=process.run, args=(functions,), daemon=True)
        for process in processes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a process waits in vain"
    assert all(lane.state is State.ENDED for process in processes for lane in process.lanes.all)
    return processes


def results(processes: Sequence[Process]) -> list[list[Any]]:
    return [[lane.result for lane in process.lanes.all] for process in processes]


def two_totals(process: Process, lane: Lane) -> int:
    first = process.total(lane, 10**lane.number * (process.number + 1))  # 3 in units of the lane
    return first + process.total(lane, 1)


def test_lanes_get_the_sums_of_their_own_calls() -> None:
    processes = in_two_processes(two_totals, two_totals, two_totals)
    assert results(processes) == [[3 + 2, 30 + 2, 300 + 2]] * 2
    assert processes[0].order == processes[1].order == [0, 1, 2, 0, 1, 2]


def test_joint_calls_need_not_be_the_same_in_all_processes() -> None:
    """As where one process has no prompt in a round, and so generates nothing."""

    def run(process: Process, lane: Lane) -> int:
        added = lane.call("add", 5) if (process.number, lane.number) != (1, 0) else 0
        return process.total(lane, added)

    processes = in_two_processes(run, run)
    assert [process.joined for process in processes] == [[[0, 1]], [[1]]]
    assert results(processes) == [[10 + 0, 10 + 5]] * 2


def test_lanes_of_unlike_lengths() -> None:
    def run(process: Process, lane: Lane) -> list[int]:
        return [process.total(lane, number) for number in range(lane.number)]

    processes = in_two_processes(run, run, run, run)
    assert results(processes) == [[[], [0], [0, 2], [0, 2, 4]]] * 2


@pytest.mark.parametrize("place", ["before", "after", "between"])
def test_a_lane_that_fails_in_one_process_ends_in_both_and_others_go_on(place: str) -> None:
    def broken(process: Process, lane: Lane) -> int:
        if place == "between":
            assert process.total(lane, 1) == 2
        if process.number == 1 and place != "after":
            raise LookupError("no key")
        if place == "after":
            assert process.total(lane, 1) == 2
            if process.number == 1:  # the other process has come to its end
                raise LookupError("no key")
            return 7
        return process.total(lane, 1)

    first, second = in_two_processes(two_totals, broken, two_totals)
    assert [process.lanes.all[2].result for process in (first, second)] == [300 + 2] * 2
    assert [process.lanes.all[0].result for process in (first, second)] == [3 + 2] * 2
    told, own = (process.lanes.all[1].error for process in (first, second))
    assert isinstance(own, LookupError)
    assert isinstance(told, OtherProcessError)
    assert str(told).startswith("process 1: LookupError: no key\nTraceback")
    assert str(told).endswith("LookupError: no key")


def test_what_handles_a_failure_asks_no_other_process() -> None:
    """As a callback that saves a checkpoint when an exception comes."""

    def broken(process: Process, lane: Lane) -> int:
        try:
            if process.number == 1:
                raise LookupError("no key")
            return process.total(lane, 1)
        except Exception:
            process.failing.add(lane.number)
            assert process.total(lane, 5) == 5
            raise

    first, second = in_two_processes(two_totals, broken)
    assert results([first, second]) == [[3 + 2, None]] * 2
    assert isinstance(second.lanes.all[1].error, LookupError)
    assert isinstance(first.lanes.all[1].error, OtherProcessError)


def test_unlike_calls_are_told_and_not_made() -> None:
    def unlike(process: Process, lane: Lane) -> int:
        return process.total(lane, 1, name=f"barrier {process.number}")

    processes = in_two_processes(unlike, two_totals)
    for process in processes:
        told = "different places (process 0 at barrier 0, process 1 at barrier 1)"
        assert told in str(process.lanes.all[0].error)
        assert process.lanes.all[1].result == 30 + 2


def test_an_end_at_a_signal_is_none_if_another_process_has_failed() -> None:
    def stops(process: Process, lane: Lane) -> None:
        raise SystemExit(0)

    def stops_here(process: Process, lane: Lane) -> None:
        raise SystemExit(143) if process.number == 0 else LookupError("no key")

    first, second = in_two_processes(stops, stops_here)
    assert isinstance(first.lanes.all[0].error, SystemExit)
    assert isinstance(first.lanes.all[1].error, OtherProcessError)
    assert isinstance(second.lanes.all[1].error, LookupError)


def test_a_call_that_fails_cuts_the_process_off() -> None:
    """Others may wait in it, so no experiment can go on."""
    meeting = Meeting(gather=lambda own: [own, own])

    def run(lane: Lane) -> None:
        meeting.enter(lane)
        with meeting.door("total"):
            raise ConnectionError("reset")

    lanes = Lanes([run])
    lanes.run([lanes.all], [lambda kind, chosen: meeting.meet(lanes.all)])
    with pytest.raises(CutOff, match="reset") as found:
        meeting.end(lanes.all)
    assert isinstance(found.value.error, ConnectionError)


def test_calls_of_the_sweep_itself_are_made_at_once() -> None:
    meeting = Meeting(gather=lambda own: [own])
    with meeting.door("total") as outer, meeting.door("inner") as inner:
        assert (outer, inner) == (True, True)
