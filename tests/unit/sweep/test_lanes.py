"""Lanes take turns in a fixed order, and their calls are carried out together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from steer_lightning.sweep.lanes import Lane, run_lanes

JOINED: list[tuple[str, list[int]]] = []


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


def test_what_carries_out_raises_for_all() -> None:
    def broken(kind: str, lanes: Sequence[Lane]) -> None:
        raise MemoryError(kind)

    with pytest.raises(MemoryError, match="add"):
        run_lanes([lambda lane: lane.call("add", 1)] * 2, broken)
