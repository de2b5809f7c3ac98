"""The default optimizer, and AdamW whose rate depends on the kind."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import AdamWByKind, check_optimizer, default_optimizer, default_settings
from steer_lightning.steering import LowRankVectors, SteeringVectors


def test_the_rate_is_that_of_the_kind() -> None:
    rates = {"SteeringVectors": 0.25, "LowRankVectors": 0.5}
    weight = nn.Parameter(torch.zeros(3))
    optimizer = AdamWByKind([weight], kind="LowRankVectors", rates=rates, weight_decay=0.0)
    weight.grad = torch.tensor([1.0, -100.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 0.5, 0.0]))
    make = partial(AdamWByKind, rates=rates, weight_decay=0.0)
    with pytest.raises(ConfigError, match=r"kind = 'LoRA'.*SteeringVectors, LowRankVectors"):
        make([weight], kind="LoRA")
    vectors = SteeringVectors().shaped(width=4, num_layers=2)
    check_optimizer(partial(make, kind="SteeringVectors"), vectors, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"'LowRankVectors'.*model\.steering = SteeringVectors"):
        check_optimizer(partial(make, kind="LowRankVectors"), vectors, torch.device("cpu"))
    mixed = LowRankVectors(rank=1).shaped(width=4, num_layers=2)
    check_optimizer(partial(make, kind="LowRankVectors"), mixed, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"init_args\.kind = 'LoRA'"):
        check_optimizer(partial(make, kind="LoRA"), mixed, torch.device("cpu"))


def test_the_default_optimizer_is_as_a_configuration_spells_it_out() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    spelled_out = default_settings()
    made = resolve_name(spelled_out["class_path"])([parameter], **spelled_out["init_args"])
    default = default_optimizer([parameter])
    assert type(made) is type(default)
    assert made.defaults == default.defaults
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.1, 0.0)


def test_the_rate_that_the_docs_name_is_the_default(root: Path) -> None:
    told = " ".join((root / "docs/explanation/update.md").read_text().split())
    rate = default_settings()["init_args"]["lr"]
    assert f"The default is `AdamW` with a learning rate of {rate:g} and without" in told
