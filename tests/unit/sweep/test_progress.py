"""What the progress of a sweep draws on a terminal, and prints into a file."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from steer_lightning.sweep import progress
from steer_lightning.sweep.progress import SweepProgress, draws_in_place
from steer_lightning.system.showing import lines_above_bars
from tests.unit.sweep.test_standings import end, standing, train


class Terminal(io.StringIO):
    """A terminal, which keeps what it was sent."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """What a reader sees, by the control codes that the progress uses."""
        lines, row, column = [""], 0, 0
        text = self.getvalue()
        while text:
            if text.startswith("\x1b["):
                code, text = text[2 : (at := text.index(text.lstrip("\x1b[0123456789")[0]))], text
                number, letter, text = int(code or 1), text[at], text[at + 1 :]
                if letter == "A":
                    row -= number
                    assert row >= 0, "it moves above what it has drawn"
                else:
                    assert letter == "J"
                    lines[row:] = [lines[row][:column]]
                continue
            sign, text = text[0], text[1:]
            if sign == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif sign == "\r":
                column = 0
            else:
                lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal()
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    monkeypatch.setattr(progress, "_size_of", lambda file: os.terminal_size((60, 24)))
    monkeypatch.setenv("TERM", "xterm")
    yield found
    tqdm._instances.clear()


def test_the_bar_counts_the_steps_of_all_experiments(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    every = [standing("slow", 4), standing("fast", 4)]
    shown = SweepProgress(every, bar=True, table=False)
    shown.after_turn(0)
    assert terminal.getvalue() == "", "nothing is known yet"
    train(every[0], 0.25)
    shown.after_turn(0)
    train(every[1], 0.75)
    shown.after_turn(1)
    (line,) = terminal.screen()
    assert line.startswith("training 2 experiments:  25%|")
    assert line.endswith("best reward 0.75 (fast), median 0.5]")
    assert "| 2/8 [" in line
    end(every[0], KeyError("why"))
    shown.after_turn(0)
    shown.close()
    line, rest = terminal.screen()
    assert "| 2/5 [" in line, "three steps of the failed one never come"
    assert line.endswith("best reward 0.75 (fast), median 0.75, 1 failed]")
    assert rest == ""
    shown.close()


def test_a_warning_stands_above_bar_and_table_and_tears_neither(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    every = [standing("slow", 4), standing("fast", 4)]
    shown = SweepProgress(every, bar=True, table=True)
    train(every[0], 0.25)
    shown.after_turn(0)
    with lines_above_bars():
        logging.lastResort.emit(  # type: ignore[union-attr]
            logging.LogRecord("x", logging.WARNING, "", 0, "take\ncare", None, None)
        )
    train(every[1], 0.75)
    shown.after_turn(1)
    *warned, head, slow, fast, bar = terminal.screen()
    assert warned == ["take", "    care"]
    assert head == "experiment  step  reward  status"
    assert slow == "slow         1/4    0.25  training"
    assert fast == "fast         1/4    0.75  training"
    assert bar.startswith("training 2 experiments:  25%|")
    shown.close()
    assert terminal.screen() == [*warned, head, slow, fast, bar, ""]


def test_a_table_is_no_larger_than_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_size_of", lambda file: os.terminal_size((30, 8)))
    every = [standing(f"experiment-{number}", 2) for number in range(20)]
    shown = SweepProgress(every, bar=True, table=True)
    for number, one in enumerate(every):
        train(one, number / 20)
        shown.after_turn(number)
    lines = terminal.screen()
    assert len(lines) == 6
    assert [line.split()[0] for line in lines[1:4]] == [f"experiment-{k}" for k in (17, 18, 19)]
    assert all(len(line) < 30 for line in lines[:-1])
    assert lines[4] == "... and 17 further experiment"
    shown.close()


def test_a_table_is_printed_at_each_tenth_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = [standing("a", 10), standing("b", 10)]
    shown = SweepProgress(every, bar=True, table=True)
    for _ in range(10):
        for number, one in enumerate(every):
            train(one, 0.5)
            shown.after_turn(number)
    shown.close()
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert lines[:4] == [
        "experiment  step  reward  status",
        "a           1/10     0.5  training",
        "b           1/10     0.5  training",
        "best reward 0.5 (a), median 0.5",
    ]
    assert len(lines) == 40
    assert lines[-2] == "b           10/10     0.5  training"


@pytest.mark.parametrize("hidden", ["option", "variable"])
def test_nothing_is_shown_where_bars_are_off(
    hidden: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    one = standing("a", 4)
    shown = SweepProgress([one], bar=hidden != "option", table=False)
    if hidden == "variable":  # tqdm reads TQDM_DISABLE when it is imported
        shown._new_bar = lambda done, total: tqdm(disable=True)  # type: ignore[method-assign]
    train(one, 0.5)
    shown.after_turn(0)
    shown.close()
    assert terminal.getvalue() == ""
    assert one.step == 1, "the table at the end needs it"


def test_a_failure_to_show_something_is_told(caplog: pytest.LogCaptureFixture) -> None:
    one = standing("a", 4)
    one.module.last_step = "no step"  # type: ignore[assignment]
    SweepProgress([one], bar=True, table=False).after_turn(0)
    assert "the progress of this step is skipped: AttributeError" in caplog.text


def test_a_dumb_terminal_can_not_erase(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws_in_place(terminal)
    assert not draws_in_place(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not draws_in_place(terminal)
