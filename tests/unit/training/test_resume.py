"""Random states survive a checkpoint that is loaded with weights_only."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.training.resume import check_same_run, get_random_states, set_random_states


def draws() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))


def test_generators_go_on_where_they_stood(tmp_path: Path) -> None:
    draws()  # gauss() and standard_normal() keep a second number in stock
    torch.save(get_random_states(), tmp_path / "states.ckpt")
    expected = [draws(), draws()]
    set_random_states(torch.load(tmp_path / "states.ckpt", weights_only=True))
    assert [draws(), draws()] == expected


def test_tuples_within_tuples_come_back_as_lists() -> None:
    now = {"model.x": (1, (2, 3)), "model.optimizer.init_args": {"betas": (0.9, 0.99)}}
    saved = {"model.x": [1, [2, 3]], "model.optimizer.init_args": {"betas": [0.9, 0.99]}}
    check_same_run(saved, now)
    with pytest.raises(ConfigError, match=r"model.x = \(1, \(2, 3\)\): the checkpoint was made"):
        check_same_run({**saved, "model.x": [1, [2, 4]]}, now)
