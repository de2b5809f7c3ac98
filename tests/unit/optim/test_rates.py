"""Learning rates that are meant for something else."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.optim import check_optimizer, default_optimizer
from steer_lightning.steering import FullFinetune, LoRA, Steering, SteeringVectors
from steer_lightning.testing import tiny_model


def test_rates_that_are_meant_for_something_else(caplog: pytest.LogCaptureFixture) -> None:
    cpu, adamw = torch.device("cpu"), torch.optim.AdamW

    def told(steering: Steering, factory: Any = default_optimizer) -> str:
        steering.build(tiny_model())
        caplog.clear()
        check_optimizer(factory, steering, cpu)
        return caplog.text

    assert told(SteeringVectors()) == ""
    for scale in ("rms", "none"):
        same = told(SteeringVectors(scale=scale), partial(adamw, lr=0.1))
        assert "lr = 0.1 is the default, which is for vectors with scale: kl" in same
    assert told(SteeringVectors(scale="rms"), partial(adamw, lr=0.09)) == ""
    assert told(SteeringVectors(), partial(torch.optim.SGD, lr=1e-3)) == ""
    assert told(LoRA(), partial(adamw, lr=1e-3)) == ""
    assert "lr = 0.001 is low for vectors with scale: kl" in told(SteeringVectors(), adamw)
    assert "is low for vectors" in told(SteeringVectors(), partial(torch.optim.Adam, lr=2e-4))
    for scale in ("rms", "none"):
        with pytest.raises(ConfigError, match=f"lr = 0.1: is the default.*not for {scale}"):
            told(SteeringVectors(scale=scale))
    for kind in (LoRA(), FullFinetune()):
        with pytest.raises(ConfigError, match=r"lr = 0.1: .*breaks (LoRA|FullFinetune)"):
            told(kind)
    with pytest.raises(ConfigError, match="breaks LoRA"):
        told(LoRA(), partial(adamw, lr=0.2))
