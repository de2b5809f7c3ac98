"""The progress of a sweep: one bar for all experiments, and a table on request."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm
from tqdm.utils import disp_trim

from steer_lightning.sweep.standings import Standing, in_short, live_table, steps
from steer_lightning.system.printable import one_line
from steer_lightning.system.showing import told_not_raised

PAUSE = 0.1
"""Seconds between two drawings, as of tqdm."""

MOST_LINES = 50
"""Largest number of experiments in a table that is printed into a file."""


class TableBar(tqdm):  # type: ignore[type-arg]  # it runs over nothing
    """A bar with a table above it, drawn in place on a terminal.

    `tqdm.write`, by which warnings are printed, clears bars before and draws them again after, so
    the table gives way to a warning as a bar does.

    Args:
        table: Function that returns the lines of the table, given the largest number of rows.
        options: Options of tqdm.
    """

    def __init__(self, table: Callable[[int], Sequence[str]], **options: Any) -> None:
        self._table, self._height = table, 0
        super().__init__(**options)

    def clear(self, nolock: bool = False) -> None:
        """Erases the bar and the table; see tqdm."""
        super().clear(nolock=nolock)
        self._erase()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draws the table and the bar; see tqdm."""
        self._erase()
        size = _size_of(self.fp)
        # a line that is broken in two, or a table that scrolls, could not be erased again
        rows = self._table(max(1, size.lines - 5))[: max(1, size.lines - 2)]
        for row in rows:
            self.fp.write(disp_trim(one_line(row), size.columns - 1) + "\n")
        self._height = len(rows)
        super().display(msg, pos)

    def _erase(self) -> None:
        if self._height:
            self.fp.write(f"\r\x1b[{self._height}A\x1b[J")  # up, and erase all below
            self._height = 0


def _size_of(file: Any) -> os.terminal_size:
    try:
        size = os.get_terminal_size(file.fileno())
    except (OSError, ValueError, AttributeError):
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))


def draws_in_place(file: Any) -> bool:
    """Tells whether a file is a terminal on which lines can be erased."""
    return bool(file.isatty()) and os.environ.get("TERM") != "dumb"


class SweepProgress:
    """Shows how far the experiments are.

    The bar is drawn to stderr like all warnings, which go above it. stdout belongs to an experiment
    while it has its turn. Where the output is no terminal, a table is printed at each tenth of the
    steps, and no bar.

    Args:
        standings: Experiments, in the order of their lanes.
        bar: Whether to show anything; tqdm's own variable `TQDM_DISABLE` hides the bar, too.
        table: Whether to show a table.
    """

    def __init__(self, standings: Sequence[Standing], *, bar: bool, table: bool) -> None:
        self.standings = standings
        self._shows, self._wants_table = bar, table
        self._in_place = draws_in_place(sys.stderr)
        self._bar: tqdm[Any] | None = None
        self._next_draw, self._tenths = 0.0, 0

    def after_turn(self, number: int) -> None:
        """Notes how far an experiment is, and draws.

        Args:
            number: Number of the experiment.
        """
        with told_not_raised("the progress of this step"):
            self.standings[number].look()
            if not self._shows:
                return
            if self._wants_table and not self._in_place:
                self._print_at_tenths()
            elif time.monotonic() >= self._next_draw:
                self._draw()
                self._next_draw = time.monotonic() + PAUSE

    def _draw(self) -> None:
        done, total = steps(self.standings)
        if self._bar is None:
            if total is None and not done:
                return  # a bar would know nothing to show
            self._bar = self._new_bar(done, total)
            return
        self._bar.n, self._bar.total = done, total
        self._bar.set_postfix_str(one_line(in_short(self.standings)))

    def _new_bar(self, done: int, total: int | None) -> tqdm[Any]:
        count = len(self.standings)
        return TableBar(
            lambda most: live_table(self.standings, most) if self._wants_table else [],
            desc="training 1 experiment" if count == 1 else f"training {count} experiments",
            initial=done,  # the time left is estimated from later steps only
            total=total,
            postfix=one_line(in_short(self.standings)),
            dynamic_ncols=True,
            file=sys.stderr,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def _print_at_tenths(self) -> None:
        done, total = steps(self.standings)
        tenths = 10 * done // total if total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            lines = [*live_table(self.standings, MOST_LINES), in_short(self.standings)]
            tqdm.write("\n".join(map(one_line, lines)), file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Draws the last state, and ends the bar's line."""
        with told_not_raised("the progress at the end"):
            if self._bar is not None:
                self._draw()
                self._bar.close()
                self._bar = None
