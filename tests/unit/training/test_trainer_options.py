"""The options of Lightning's trainer: a run is as long as its schedule has been told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning import ConfigError
from steer_lightning.data import PlainTemplate, PromptDataModule
from steer_lightning.testing import byte_tokenizer
from steer_lightning.training.trainer_options import check_options, num_steps_of
from steer_lightning.types import Problem
from tests.unit.training.helpers import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about loaders and checkpoints
TOKENIZER = byte_tokenizer()


class Eight:
    """Four batches of two."""

    def load(self) -> list[Problem]:
        return [Problem(question=str(k), answer="0") for k in range(8)]


class Counter(L.LightningModule):
    """Counts the steps of a run, and what its schedule was told."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.policy = SimpleNamespace(tokenizer=TOKENIZER)
        self.told: int | None = None
        self.seen: list[tuple[int, ...]] = []

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def configure_optimizers(self) -> Any:
        self.told = num_steps_of(self.trainer)
        return torch.optim.SGD([self.weight], lr=0.1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """There is no batch of it."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(tuple(prompt.id for prompt in batch))
        self.optimizers().step()  # type: ignore[union-attr]


class Interrupts(L.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise SystemExit


def fit(options: dict[str, Any], ckpt_path: Path | None = None, *callbacks: Any) -> Counter:
    module = Counter()
    data = PromptDataModule(Eight(), template=PlainTemplate("{question}"), batch_size=2)
    trainer = quiet_trainer(use_distributed_sampler=False, callbacks=list(callbacks), **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


LENGTHS = [
    ({"max_epochs": 3}, 12),
    ({"max_epochs": 3, "limit_train_batches": 3}, 9),
    ({"max_epochs": 3, "limit_train_batches": 0.8}, 9),
    ({"max_epochs": 3, "limit_train_batches": 1}, 3),
    ({"max_epochs": 2, "limit_train_batches": 100}, 8),
    ({"max_epochs": 3, "max_steps": 7, "limit_train_batches": 3}, 7),
    ({"max_epochs": -1, "max_steps": 7, "limit_train_batches": 3}, 7),
    ({"max_epochs": 2, "min_steps": 100, "min_epochs": 5}, 8),
    ({"fast_dev_run": 3}, 3),
    ({"max_epochs": 0}, 0),
    ({"max_epochs": -1, "max_steps": 0}, 0),
    ({"max_epochs": 2, "limit_train_batches": 0}, 0),
]


@pytest.mark.parametrize(("options", "length"), LENGTHS, ids=[str(x) for x, _ in LENGTHS])
def test_a_run_takes_as_many_steps_as_its_schedule_was_told(options, length: int) -> None:
    module = fit(options)
    assert (module.told, len(module.seen)) == (length, length)


def test_a_run_with_limited_epochs_goes_on_where_it_stood(tmp_path: Path) -> None:
    options, path = {"max_epochs": 3, "limit_train_batches": 3}, tmp_path / "x.ckpt"
    whole = fit(options)
    # an epoch leaves a batch to the next one
    assert sorted(sum(whole.seen[:4], ())) == list(range(8))
    for step in range(1, 9):
        with pytest.raises(SystemExit):
            fit(options, None, Interrupts(step, path))
        rest = fit(options, path)
        assert (rest.told, rest.seen) == (9, whole.seen[step:])
    with pytest.raises(ConfigError, match=r"limit_train_batches.*made with 3"):
        fit({"max_epochs": 3, "limit_train_batches": 2}, path)


def check(options: dict[str, Any]) -> None:
    prompts = {"train": [None] * 8, "val": [None] * 4}
    data = SimpleNamespace(prompts=prompts, batch_size=2, eval_batch_size=2)
    trainer = L.Trainer(accelerator="cpu", logger=False, **options)
    trainer.state.fn = TrainerFn.FITTING
    check_options(trainer, data)


def test_a_share_of_no_batch_is_refused() -> None:
    check({"limit_train_batches": 0.25, "limit_val_batches": 0.5})
    check({"limit_val_batches": 0})
    with pytest.raises(ConfigError, match=r"limit_train_batches = 0.2: is a share of 4 batches"):
        check({"limit_train_batches": 0.2})
    with pytest.raises(ConfigError, match=r"limit_val_batches = 0.4: is a share of 2 batches"):
        check({"limit_val_batches": 0.4})
