"""Checkpoints are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning.callbacks.last_checkpoint import WholeFileCheckpointIO


def test_a_checkpoint_that_can_not_be_written_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        WholeFileCheckpointIO().save_checkpoint({"step": 2, "bad": lambda: None}, path)
    assert WholeFileCheckpointIO().load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
