"""What only shows something does not end the work."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
import torch
from tqdm import tqdm

from steer_lightning.system.showing import lines_above_bars, told_not_raised


@pytest.mark.parametrize("error", [ValueError("a\nb"), OSError(28, "full"), KeyError("k")])
def test_errors_are_told_in_one_line(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), told_not_raised("the bar"):
        raise error
    (record,) = caplog.records
    assert record.message.startswith(f"the bar is skipped: {type(error).__name__}: ")
    assert "\n" not in record.message


def test_memory_that_runs_out_is_told_and_a_stop_is_a_stop() -> None:
    with told_not_raised("the lens"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), told_not_raised("the lens"):
            raise stop


def test_warnings_have_lines_of_their_own_beside_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as outside of pytest
    before = logging.lastResort, warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with tqdm(total=2, file=sys.stdout) as bar, lines_above_bars():
            bar.update()
            logging.getLogger("mine").warning("logged")
            logging.getLogger("mine").info("not shown")
            warnings.warn("of Python", stacklevel=1)
    assert (logging.lastResort, warnings.showwarning) == before
    out, err = capsys.readouterr()
    assert err.startswith("logged\n")
    assert "UserWarning: of Python\n" in err
    assert "not shown" not in err
    parts = out.split("\r")
    assert sum(part.isspace() for part in parts) == 2, "the bar has cleared its line for each"
    assert "1/2" in parts[-1], "and is drawn again"
