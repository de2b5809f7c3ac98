"""The quickstart with too high a learning rate: its collapse is noticed and ends the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning.cli import main

STOPS = {"class_path": "Guard", "init_args": {"stop_on_collapse": True}}


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "most"), [(0.5, 8), (0.02, 0)], ids=["too-high", "quickstart"])
def test_a_run_that_collapses_ends_soon_and_one_that_learns_goes_on(
    rate: float, most: int, tmp_path: Path
) -> None:
    words = ["fit", "--config", "quickstart", f"--trainer.default_root_dir={tmp_path}"]
    words += [f"--trainer.callbacks={json.dumps([STOPS])}", "--trainer.max_steps=30"]
    words += ["--trainer.enable_progress_bar=false", f"--model.optimizer.init_args.lr={rate}"]
    assert main(words) == 0
    run = tmp_path / "run-1"
    summary = json.loads((run / "summary.json").read_text())
    if not most:
        assert (summary["num_steps"], summary["warnings"]) == (30, [])
        assert summary["best"]["step"] in (10, 20)
        assert summary["best"]["value"] > 0.6
        return
    assert 3 <= summary["num_steps"] <= most
    assert "the callback Guard has stopped it" in summary["ended_early"]
    (told,) = (text for text in summary["warnings"] if "the reward has collapsed" in text)
    assert "the learning rate 0.5 is too high" in told
    assert "lr 0.1" in told
    assert told.endswith("none had been judged yet")
    assert summary["best"] is None
    assert (run / "checkpoints/last.ckpt").exists()
