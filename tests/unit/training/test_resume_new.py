"""The facts of a checkpoint, compared with those of the run that goes on from it."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.training.resume import check_same_run


def test_tuples_within_tuples_come_back_as_lists() -> None:
    now = {"model.x": (1, (2, 3)), "model.optimizer.init_args": {"betas": (0.9, 0.99)}}
    saved = {"model.x": [1, [2, 3]], "model.optimizer.init_args": {"betas": [0.9, 0.99]}}
    check_same_run(saved, now)
    with pytest.raises(ConfigError, match=r"model.x = \(1, \(2, 3\)\): the checkpoint was made"):
        check_same_run({**saved, "model.x": [1, [2, 4]]}, now)
