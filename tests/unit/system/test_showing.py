"""What only shows something does not end the work."""

from __future__ import annotations

import logging

import pytest
import torch

from steer_lightning.system.showing import told_not_raised


@pytest.mark.parametrize("error", [ValueError("a\nb"), OSError(28, "full"), KeyError("k")])
def test_errors_are_told_in_one_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), told_not_raised("the bar"):
        raise error
    (record,) = caplog.records
    assert record.message.startswith(f"the bar is left out: {type(error).__name__}: ")
    assert "\n" not in record.message


def test_memory_that_runs_out_is_told_and_a_stop_is_a_stop() -> None:
    with told_not_raised("the lens"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), told_not_raised("the lens"):
            raise stop
