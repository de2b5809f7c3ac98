"""What callbacks wait for is logged during the run, or refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from steer_lightning import ConfigError, PromptDataModule, SteeringModule
from steer_lightning.callbacks import RewardLogger
from steer_lightning.data import PlainTemplate
from steer_lightning.losses import (
    Clip,
    EntropyBonus,
    KLToBase,
    PolicyGradient,
    PrefixLikelihood,
    TruncatedImportance,
)
from steer_lightning.rewards import FormatReward, MathReward, WeightedReward
from steer_lightning.steering import BitFit, LoRA, LowRankVectors, SteeringVectors, VectorFit
from steer_lightning.testing import save_tiny
from steer_lightning.training import monitors
from steer_lightning.training.guidance import Guidance
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.monitors import check_monitors
from steer_lightning.training.update import OptimizerSteps
from steer_lightning.types import Problem
from tests.unit.training.helpers import SAMPLING, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about loaders and checkpoints
TERMS = [EntropyBonus(0.1), KLToBase(0.1)]
ALL_PARTS = PolicyGradient(Clip(), None, TruncatedImportance(), TERMS)


class Few:
    """Two batches of two."""

    def load(self) -> list[Problem]:
        return [Problem(question=str(k), answer=str(k)) for k in range(4)]


def module_of(folder: Path, steering: Any = None, **options: Any) -> SteeringModule:
    options = {"loss": ALL_PARTS, **options}
    if not isinstance(options["loss"], PrefixLikelihood):
        rewards = [FormatReward("[a-m]"), MathReward()]
        options["updates"] = OptimizerSteps(num_passes=2)
        options["rewards"] = [WeightedReward(reward=reward) for reward in rewards]
    return SteeringModule(
        base=save_tiny(folder, "qwen2"),
        sampling=SAMPLING,
        steering=steering or SteeringVectors(),
        **options,
    )


def trainer_of(*callbacks: Any, **options: Any) -> L.Trainer:
    return quiet_trainer(
        enable_checkpointing=any(isinstance(x, ModelCheckpoint) for x in callbacks),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **{"max_steps": 2, **options},
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kl_in_reward": KLInReward(weight=0.1)},
        {"loss": PrefixLikelihood(num_tokens=2, temperature=0.5)},
        {
            "loss": PolicyGradient(Clip()),
            "guidance": Guidance(text="{question}!", num_guided=1, passes_at=2),
        },
        {"steering": LowRankVectors()},
        {"steering": LoRA(rank=1), "optimizer": partial(torch.optim.AdamW, lr=1e-3)},
        {"steering": BitFit(), "optimizer": partial(torch.optim.AdamW, lr=1e-3)},
        {"steering": VectorFit(), "optimizer": partial(torch.optim.AdamW, lr=1e-3)},
    ],
    ids=["all parts", "off policy", "guided", "low rank", "LoRA", "BitFit", "VectorFit"],
)
def test_the_names_are_those_that_a_run_logs(options: Any, tmp_path: Path) -> None:
    module = module_of(tmp_path, **options)
    template = PlainTemplate("{question}")
    data = PromptDataModule(Few(), Few(), template=template, batch_size=2)
    trainer = trainer_of(RewardLogger(), default_root_dir=tmp_path)
    trainer.fit(module, datamodule=data)
    known = [
        *monitors._of_steps(trainer.callbacks, module),
        *monitors._of_validations(trainer, data),
    ]
    assert len(known) == len(set(known))
    assert set(known) == set(trainer.callback_metrics)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SteeringModule:
    module = module_of(tmp_path_factory.mktemp("base"))
    module.policy.prepare()
    return module


def check(module: Any, *callbacks: Any, val: int = 4, logs: bool = True, **options: Any) -> None:
    prompts = {"train": [None] * 8, **({"val": [None] * val} if val else {})}
    data = SimpleNamespace(prompts=prompts, batch_size=2, eval_batch_size=2)
    every = [*([RewardLogger()] if logs else []), *callbacks]
    check_monitors(trainer_of(*every, **{"max_steps": 4, **options}), module, data)


def test_metrics_that_are_logged_are_let_pass_and_named_where_one_is_misspelt(
    built: SteeringModule,
) -> None:
    for name in (
        "reward/mean",
        "reward/FormatReward",
        "reward/MathReward/num_timed_out",
        "update/clip_share",
        "vectors/norm_mean",
        "validation/accuracy_low",
    ):
        check(built, EarlyStopping(name), ModelCheckpoint(monitor=name))
    check(built, ModelCheckpoint(), ModelCheckpoint(monitor="step", mode="max"))
    check(built, ModelCheckpoint(monitor="validation/accuracy"), val_check_interval="00:00:01:00")
    with pytest.raises(ConfigError, match=r"are reward/mean, .*\. Monitor one of these"):
        check(built, EarlyStopping("reward/meen"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("val_loss", {}),
        ("step", {}),
        ("reward/meen", {}),
        ("reward/kl", {}),
        ("update/kll", {}),
        ("benchmark/x/accuracy", {}),
        ("validation/acuracy", {}),
        ("validation/accuracy", {"val": 0}),
        ("validation/accuracy", {"max_steps": 3}),
        ("validation/accuracy", {"limit_val_batches": 0}),
        ("validation/accuracy_low", {"val": 1}),
        ("reward/mean", {"logs": False}),
    ],
)
def test_metrics_that_nothing_logs_are_refused(
    built: SteeringModule, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"EarlyStopping.monitor = '{name}': nothing logs"):
        check(built, EarlyStopping(name), **options)


def test_parts_of_a_users_own_may_log_what_they_like(built: SteeringModule, tmp_path: Path) -> None:
    class Own(L.Callback):
        """It may log anything but in the name of the package's validations and benchmarks."""

    check(built, Own(), ModelCheckpoint(monitor="mine"))
    with pytest.raises(ConfigError, match=r"ModelCheckpoint.monitor = 'validation/acuracy'"):
        check(built, Own(), ModelCheckpoint(monitor="validation/acuracy"))

    class Cost:
        def costs(self, inputs: Any) -> Any:
            return inputs.logprobs, {"mine": torch.zeros_like(inputs.logprobs)}

    module = module_of(tmp_path, loss=PolicyGradient(Clip(), terms=[Cost()]))
    module.policy.prepare()
    check(module, EarlyStopping("update/mine"))
    with pytest.raises(ConfigError, match=r"EarlyStopping.monitor = 'mine'"):
        check(module, EarlyStopping("mine"))
