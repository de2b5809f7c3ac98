"""Lanes take turns in a fixed order, and their calls are carried out together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from steer_lightning.sweep.lanes import COLLECTIVE, Carrier, Lane, Lanes, State

JOINED: list[tuple[str, list[int]]] = []


def run_lanes(functions: Sequence[Any], carry_out: Carrier, **settings: Any) -> list[Lane]:
    lanes = Lanes(functions, **settings)
    lanes.run([lanes.all], [carry_out])
    return lanes.all


@pytest.fixture(autouse=True)
def _empty() -> None:
    JOINED.clear()


def add(kind: str, lanes: Sequence[Lane]) -> None:
    JOINED.append((kind, [lane.number for lane in lanes]))
    total = sum(lane.request for lane in lanes)
    for lane in lanes:
        lane.answer = ZeroDivisionError("no") if lane.request < 0 else total


def test_calls_of_all_lanes_are_carried_out_together() -> None:
    order: list[Any] = []

    def run(lane: Lane) -> int:
        order.append(lane.number)
        first = lane.call("add", lane.number + 1)
        order.append(lane.number)
        return int(first) + int(lane.call("add", 10))

    lanes = run_lanes([run] * 3, add)
    assert [lane.result for lane in lanes] == [6 + 30] * 3
    assert JOINED == [("add", [0, 1, 2])] * 2
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_lane_that_raises_ends_alone_and_others_go_on() -> None:
    def run(lane: Lane) -> int:
        total = int(lane.call("add", -1 if lane.number == 1 else 5))
        return total + int(lane.call("add", 1))

    one, two, three = run_lanes([run] * 3, add)
    assert (one.result, three.result) == (9 + 2, 9 + 2)
    assert isinstance(two.error, ZeroDivisionError)
    assert JOINED == [("add", [0, 1, 2]), ("add", [0, 2])]


def test_lanes_of_unlike_lengths_and_kinds() -> None:
    def run(lane: Lane) -> list[int]:
        kinds = ["look"] * (lane.number == 2) + ["add"] * (lane.number + 1)
        return [lane.call(kind, 1) for kind in kinds]

    lanes = run_lanes([run] * 3, add)
    assert JOINED == [
        ("add", [0, 1]),  # most wait for it
        ("add", [1]),  # of kinds that equally many wait for, that of the first lane
        ("look", [2]),
        ("add", [2]),
        ("add", [2]),
        ("add", [2]),
    ]
    assert [lane.result for lane in lanes] == [[2], [2, 1], [1, 1, 1, 1]]


def test_global_state_is_set_for_each_turn() -> None:
    owner: list[int] = [-1]
    kept = [0, 0]

    def before(lane: Lane) -> None:
        owner[0] = kept[lane.number]

    def after(lane: Lane) -> None:
        kept[lane.number] = owner[0]

    def run(lane: Lane) -> list[int]:
        seen = []
        for _ in range(3):
            owner[0] += lane.number + 1
            lane.call("add", 0)
            seen.append(owner[0])
        return seen

    lanes = run_lanes([run] * 2, add, before_turn=before, after_turn=after)
    assert [lane.result for lane in lanes] == [[1, 2, 3], [2, 4, 6]]


def test_what_carries_out_calls_raises_where_they_were_made() -> None:
    def broken(kind: str, lanes: Sequence[Lane]) -> None:
        raise MemoryError(kind)

    lanes = run_lanes([lambda lane: lane.call("add", 1), lambda lane: 5], broken)
    assert isinstance(lanes[0].error, MemoryError)
    assert lanes[1].result == 5


def test_calls_of_a_crew_are_carried_out_while_another_goes_on() -> None:
    met = threading.Barrier(2, timeout=30)  # broken if one crew waits for the other

    def meet(kind: str, lanes: Sequence[Lane]) -> None:
        met.wait()
        for lane in lanes:
            lane.answer = [other.number for other in lanes]

    going: list[int] = []

    def run(lane: Lane) -> list[list[int]]:
        found = []
        for _ in range(3):
            going.append(lane.number)
            assert going == [lane.number]  # only one goes on at a time
            going.remove(lane.number)
            found.append(lane.call("meet", None))
        return found

    lanes = Lanes([run] * 5)
    lanes.run([lanes.all[:3], lanes.all[3:]], [meet, meet])
    assert [lane.error for lane in lanes.all] == [None] * 5
    assert [lane.result for lane in lanes.all] == [[[0, 1, 2]] * 3] * 3 + [[[3, 4]] * 3] * 2


def test_an_interruption_ends_all_crews() -> None:
    def interrupted(kind: str, lanes: Sequence[Lane]) -> None:
        raise KeyboardInterrupt

    lanes = Lanes([lambda lane: lane.call("add", 1)] * 2)
    with pytest.raises(KeyboardInterrupt):
        lanes.run([lanes.all[:1], lanes.all[1:]], [interrupted, add])


def test_collective_calls_come_when_no_lane_makes_another() -> None:
    def run(lane: Lane) -> None:
        lane.call(COLLECTIVE if lane.number else "add", 1)
        lane.call(COLLECTIVE, 1)

    run_lanes([run] * 3, add)
    assert JOINED == [("add", [0]), (COLLECTIVE, [0, 1, 2]), (COLLECTIVE, [1, 2])]


def test_all_lanes_come_to_a_call_that_is_not_carried_out() -> None:
    def run(lane: Lane) -> str:
        for _ in range(lane.number):
            lane.call("add", 1)
        return str(lane.call("load", 0))

    lanes = Lanes([run] * 3)
    lanes.run_until("load", add)
    assert JOINED == [("add", [1, 2]), ("add", [2])]
    assert {(lane.state, lane.kind) for lane in lanes.all} == {(State.WAITING, "load")}
    lanes.run([lanes.all], [add])
    assert [lane.result for lane in lanes.all] == ["0"] * 3
