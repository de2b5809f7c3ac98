"""Learning rates that are meant for something else."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.optim import MuonByLayer, check_optimizer, default_optimizer
from steer_lightning.optim.rates import size_of_step
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


def test_rates_of_muon_are_compared_as_those_of_adam(caplog: pytest.LogCaptureFixture) -> None:
    cpu, muon = torch.device("cpu"), torch.optim.Muon
    vectors = SteeringVectors().shaped(256, 4)  # a row of length 1 has root mean square 1 / 16
    assert size_of_step(muon([vectors.weight], lr=0.8), vectors) == pytest.approx(0.05)
    matched = muon([vectors.weight], lr=0.8, adjust_lr_fn="match_rms_adamw")
    assert size_of_step(matched, vectors) == pytest.approx(0.16)
    tall = SteeringVectors().shaped(256, 1024)  # 4 times as many rows: sqrt(4) / sqrt(1024)
    assert size_of_step(muon([tall.weight], lr=0.8), tall) == pytest.approx(0.05)
    assert size_of_step(MuonByLayer([vectors.weight], lr=0.8), vectors) == 0.8
    assert size_of_step(torch.optim.SGD([vectors.weight], lr=0.8), vectors) is None

    def told(factory: Any) -> str:
        caplog.clear()
        check_optimizer(factory, vectors, cpu)
        return caplog.text

    assert "lr = 0.016, about 0.001 for Adam, is low for vectors" in told(partial(muon, lr=0.016))
    assert told(partial(muon, lr=0.8)) == told(partial(MuonByLayer, lr=0.1)) == ""
    assert "lr = 0.001 is low" in told(partial(MuonByLayer, lr=0.001))
    lora = LoRA()
    lora.build(tiny_model())
    check_optimizer(partial(muon, lr=0.02), lora, cpu)
    with pytest.raises(ConfigError, match=r"lr = 0.9: .*breaks LoRA"):
        check_optimizer(partial(muon, lr=0.9), lora, cpu)
    rms = SteeringVectors(scale="rms").shaped(256, 4)
    caplog.clear()
    check_optimizer(partial(MuonByLayer, lr=0.1), rms, cpu)
    assert caplog.text == ""  # 0.1 is AdamW's default alone
