"""Options that say when to validate bring a validation, or are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from steer_lightning import ConfigError
from steer_lightning.training.validations import check_validations, has_validations
from tests.unit.training.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about loaders and steps


def data_of(val: int = 4) -> Any:
    """Four batches an epoch."""
    prompts = {"train": [None] * 8, **({"val": [None] * val} if val else {})}
    return SimpleNamespace(prompts=prompts, batch_size=2, eval_batch_size=2)


def check(val: int = 4, **options: Any) -> None:
    check_validations(quiet_trainer(**options), data_of(val))


class Watch(L.LightningModule):
    """Notes behind which step problems are answered."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """There is nothing to answer."""

    def on_validation_start(self) -> None:
        self.seen.append(self.trainer.global_step)


OPTIONS = [
    {"max_steps": 20, "val_check_interval": 3},
    {"max_steps": 2, "val_check_interval": 3},
    {"max_steps": 3, "val_check_interval": 3},
    {"max_steps": 7, "val_check_interval": 6, "check_val_every_n_epoch": None},
    {"max_steps": 5, "val_check_interval": 6, "check_val_every_n_epoch": None},
    {"max_epochs": 2, "check_val_every_n_epoch": 2},
    {"max_epochs": 2, "check_val_every_n_epoch": 3},
    {"max_steps": 6, "val_check_interval": 3, "check_val_every_n_epoch": 2},
    {"max_steps": 7, "val_check_interval": 3, "check_val_every_n_epoch": 2},
    {"max_steps": 1, "val_check_interval": 0.5},
    {"max_steps": 2, "val_check_interval": 0.5},
    {"max_steps": 3},
    {"max_steps": 4},
    {"max_steps": 9, "limit_val_batches": 0, "val_check_interval": 3},
    {"max_steps": 9, "limit_train_batches": 2, "val_check_interval": 2},
    {"fast_dev_run": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_known_whether_lightning_will_validate(options: dict[str, Any]) -> None:
    module, trainer = Watch(), quiet_trainer(num_sanity_val_steps=0, **options)
    expected = has_validations(trainer, data_of())
    trainer.fit(module, DataLoader(range(4)), DataLoader(range(2)))
    assert bool(module.seen) == expected


def test_a_validation_that_would_never_come_is_refused() -> None:
    check(val_check_interval=4, max_epochs=1)
    check(val_check_interval=5, check_val_every_n_epoch=None, max_steps=5)
    check(val_check_interval=5, limit_val_batches=0)
    check(val_check_interval="00:00:00:05")
    check(max_steps=2)  # nobody has asked for the end of an epoch
    for options, told in (
        ({"val_check_interval": 3, "limit_train_batches": 2}, "= 3: must be at most the 2 batches"),
        (
            {"val_check_interval": 5, "check_val_every_n_epoch": None, "max_steps": 4},
            "val_check_interval = 5: leads to no .* follow step 5, but the run has 4",
        ),
        (
            {"val_check_interval": 4, "max_steps": 3},
            "val_check_interval = 4: leads to no .* follow step 4, but the run has 3",
        ),
        (
            {"check_val_every_n_epoch": 5, "max_epochs": 2},
            "every_n_epoch = 5: leads to no .* follow step 20, but the run has 8",
        ),
        ({"limit_val_batches": 1, "max_steps": 3}, "limit_val_batches = 1: leads to no"),
    ):
        with pytest.raises(ConfigError, match=told):
            check(**options)


def test_a_validation_without_problems_is_refused() -> None:
    check(val=0)
    check(val=0, val_check_interval=2, limit_val_batches=0)
    for interval in (2, "00:00:00:05"):
        with pytest.raises(ConfigError, match=r"val_check_interval = .*: needs data\.val"):
            check(val=0, val_check_interval=interval)
