"""Messages are those of the experiment whose thread logs them."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from steer_lightning.cli.sweep_output import messages_by_experiment

log = logging.getLogger("steer_lightning.some.module")


def in_a_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_messages_are_written_to_the_output_and_named_on_the_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = io.StringIO(), io.StringIO()
    with messages_by_experiment() as messages:
        for name, output in (("lr=1", one), ("lr=2", two)):
            in_a_thread(messages.of(name, output, lambda: log.warning("is %d %% off", 5)))
        in_a_thread(messages.of("other", None, lambda: log.error("in another process")))
        in_a_thread(lambda: log.warning("of all"))
        logging.getLogger("other_package").warning("of others")
    log.warning("after")
    assert one.getvalue() == two.getvalue() == "is 5 % off\n"
    assert [record.getMessage() for record in caplog.records] == [
        "[lr=1] is 5 % off",
        "[lr=2] is 5 % off",
        "[other] in another process",
        "of all",
        "of others",
        "after",
    ]


def test_a_record_that_several_experiments_log_gets_the_name_of_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = log.makeRecord(log.name, logging.WARNING, "file.py", 1, "shared", (), None)
    with messages_by_experiment() as messages:
        for name in ("one", "two"):
            in_a_thread(messages.of(name, None, lambda: log.handle(record)))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["[one] shared", "[two] shared"]
