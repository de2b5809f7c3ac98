"""Functions that run side by side, one at a time, and whose calls are carried out together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class State(Enum):
    """What a lane does."""

    READY = "ready"
    """It goes on when its turn comes."""
    WAITING = "waiting"
    """It has made a call that is carried out together with those of other lanes."""
    ENDED = "ended"
    """Its function has returned or raised."""


@dataclass(kw_only=True, eq=False)
class Lane:
    """One of the functions, in a thread of its own."""

    number: int
    """Number of the lane."""
    run: Callable[[Lane], Any]
    """Function; it gets its lane, with which it makes joint calls."""
    state: State = State.READY
    """What the lane does."""
    kind: str = ""
    """Kind of the call for which it waits."""
    request: Any = None
    """Argument of that call."""
    answer: Any = None
    """Answer to that call; an exception is raised where the call was made."""
    result: Any = None
    """What its function has returned."""
    error: BaseException | None = None
    """What its function has raised."""
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released when its turn comes."""
    _back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def call(self, kind: str, request: Any) -> Any:
        """Makes a call, and returns its answer once it was carried out.

        Args:
            kind: Kind of the call; calls of one kind are carried out together.
            request: Argument of the call.

        Raises:
            Exception: If the answer is one.
        """
        self.state, self.kind, self.request = State.WAITING, kind, request
        self._back.release()
        self.turn.acquire()
        answer, self.answer, self.request = self.answer, None, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _go(self) -> None:
        self.turn.acquire()
        try:
            self.result = self.run(self)
        except BaseException as error:  # reported by whoever runs the lanes
            self.error = error
        self.state = State.ENDED
        self._back.release()

    def _take_turn(self) -> None:
        """Lets the lane run until it makes a call or ends."""
        self.turn.release()
        self._back.acquire()


Carrier = Callable[[str, Sequence[Lane]], None]
"""Function that carries out the calls of one kind of some lanes, and sets their answers."""


def run_lanes(
    functions: Sequence[Callable[[Lane], Any]],
    carry_out: Carrier,
    *,
    before_turn: Callable[[Lane], None] = lambda lane: None,
    after_turn: Callable[[Lane], None] = lambda lane: None,
) -> list[Lane]:
    """Runs functions in threads of their own, one at a time, in an order that is always the same.

    Each lane runs until it makes a joint call or ends; then the next one has its turn. When no lane
    can go on, the calls of the kind for which most lanes wait are carried out in the thread that
    called this function.

    Args:
        functions: Functions to run.
        carry_out: Function that carries out calls.
        before_turn: Function called before a lane goes on, such as one that sets global state.
        after_turn: Function called once a lane waits or has ended.

    Returns:
        The lanes, all of which have ended.
    """
    lanes = [Lane(number=number, run=run) for number, run in enumerate(functions)]
    threads = [
        threading.Thread(target=lane._go, name=f"experiment {lane.number}", daemon=True)
        for lane in lanes
    ]
    for thread in threads:
        thread.start()
    while any(lane.state is not State.ENDED for lane in lanes):
        for lane in lanes:
            if lane.state is State.READY:
                before_turn(lane)
                lane._take_turn()
                after_turn(lane)
        waiting = [lane for lane in lanes if lane.state is State.WAITING]
        if waiting:
            kinds = [lane.kind for lane in waiting]
            kind = max(dict.fromkeys(kinds), key=kinds.count)
            chosen = [lane for lane in waiting if lane.kind == kind]
            carry_out(kind, chosen)
            for lane in chosen:
                lane.state = State.READY
    for thread in threads:
        thread.join()
    return lanes
