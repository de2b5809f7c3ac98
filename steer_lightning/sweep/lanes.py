"""Functions that run side by side, one at a time, and whose calls are carried out together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

COLLECTIVE = "collective"
"""Kind of the calls that are carried out only when all lanes wait for one of them or have ended."""


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
    owner: int = 0
    """Number of the lane within its crew; its rows in joint calls are known by it."""
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


class Lanes:
    """Functions in threads of their own, of which one at a time goes on.

    Args:
        functions: Functions to run; they do not begin yet.
        before_turn: Function called before a lane goes on, such as one that sets global state.
        after_turn: Function called once a lane waits or has ended.

    Attributes:
        all: The lanes, in the order of the functions.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Lane], Any]],
        *,
        before_turn: Callable[[Lane], None] = lambda lane: None,
        after_turn: Callable[[Lane], None] = lambda lane: None,
    ) -> None:
        self.all = [Lane(number=number, run=run) for number, run in enumerate(functions)]
        self._before_turn, self._after_turn = before_turn, after_turn
        self._baton = threading.Lock()
        for lane in self.all:
            name = f"experiment {lane.number}"
            threading.Thread(target=lane._go, name=name, daemon=True).start()

    def take_turns(self, lanes: Sequence[Lane]) -> None:
        """Lets each of some lanes run until it makes a joint call or ends, one after the other."""
        with self._baton:
            for lane in lanes:
                if lane.state is State.READY:
                    self._before_turn(lane)
                    lane._take_turn()
                    self._after_turn(lane)

    def run(self, crews: Sequence[Sequence[Lane]], carriers: Sequence[Carrier]) -> None:
        """Runs lanes to their ends, in an order that is the same each time within a crew.

        While no lane of a crew can go on, the calls of the kind for which most of them wait are
        carried out. That is done in a thread of each crew's own, while lanes of other crews go on.

        Args:
            crews: Lanes whose calls are carried out together.
            carriers: Function of each crew that carries out its calls.
        """
        errors: list[BaseException] = []

        def run(crew: Sequence[Lane], carry_out: Carrier) -> None:
            try:
                while not errors and any(lane.state is not State.ENDED for lane in crew):
                    self._go_on(crew, carry_out)
            except BaseException as error:  # raised again below
                errors.append(error)

        pairs = list(zip(crews, carriers, strict=True))
        threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in pairs[1:]]
        for thread in threads:
            thread.start()
        run(*pairs[0])
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def run_until(self, kind: str, carry_out: Carrier) -> None:
        """Runs all lanes until each of them waits for a call of a kind, or has ended.

        Args:
            kind: Kind of the call, which is not carried out.
            carry_out: Function that carries out other calls.
        """
        self.take_turns(self.all)
        while others := [
            lane for lane in self.all if lane.state is State.WAITING and lane.kind != kind
        ]:
            self._go_on(others, carry_out)
            self.take_turns(others)

    def _go_on(self, crew: Sequence[Lane], carry_out: Carrier) -> None:
        """Lets the lanes of a crew go on as far as they can, and carries out calls."""
        self.take_turns(crew)
        waiting = [lane for lane in crew if lane.state is State.WAITING]
        if not waiting:
            return
        kinds = [lane.kind for lane in waiting]
        kinds = [kind for kind in kinds if kind != COLLECTIVE] or kinds
        kind = max(dict.fromkeys(kinds), key=kinds.count)
        chosen = [lane for lane in waiting if lane.kind == kind]
        try:
            carry_out(kind, chosen)
        except Exception as error:  # raised again where the calls were made
            for lane in chosen:
                lane.answer = error
        for lane in chosen:
            lane.state = State.READY
