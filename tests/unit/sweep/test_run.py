"""Experiments that run side by side are what each of them is alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch

from steer_lightning import ConfigError, PromptDataModule, SteeringModule
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.losses import PolicyGradient, TruncatedImportance
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import FormatReward, MathReward, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.sweep.lane_module import LaneModule
from steer_lightning.sweep.run import Prepared, SideBySide
from steer_lightning.training.resume import get_random_states


def module(seed: int = 0, rate: float = 0.02, **settings: Any) -> SteeringModule:
    settings = {"sampling": Sampling(group_size=4, max_new_tokens=40), **settings}
    return SteeringModule(
        seed=seed, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate), **settings
    )


EXPERIMENTS: list[Callable[[], SteeringModule]] = [
    module,
    lambda: module(seed=1, rate=0.08),
    lambda: module(steering=SteeringVectors(layers=[2])),
    lambda: module(
        rewards=[WeightedReward(reward=MathReward()), WeightedReward(reward=FormatReward())],
        sampling=Sampling(group_size=6, max_new_tokens=40, temperature=0.8),
    ),
]


def data(seed: int) -> PromptDataModule:
    return PromptDataModule(
        train=Arithmetic(num_problems=64),
        template=PlainTemplate("{question}=?\n"),
        batch_size=6,
        seed=seed,
    )


def fit(experiment: SteeringModule, steps: int) -> torch.Tensor:
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        devices=1,
    )
    trainer.fit(experiment, data(experiment.seed))
    return experiment.policy.steering.vectors.detach().clone()


def prepared(experiments: list[SteeringModule], steps: int) -> list[Prepared]:
    found = []
    for number, experiment in enumerate(experiments):
        experiment.__class__ = LaneModule
        fit_it = partial(fit, experiment, steps)
        states = get_random_states()
        found.append(
            Prepared(name=f"e{number}", module=experiment, fit=fit_it, random_states=states)
        )
    return found


@pytest.mark.parametrize(
    ("steps", "crews"), [(3, 1), (3, 2), pytest.param(20, 2, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command line withholds
def test_each_experiment_is_its_single_run(steps: int, crews: int) -> None:
    expected = [fit(make(), steps) for make in EXPERIMENTS]
    experiments = prepared([make() for make in EXPERIMENTS], steps)
    lanes = SideBySide(experiments, num_crews=crews).run()
    assert [lane.error for lane in lanes] == [None] * 4
    for lane, vectors in zip(lanes, expected, strict=True):
        assert vectors.abs().max() > 0.01
        torch.testing.assert_close(lane.result, vectors, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_experiments_share_a_quantised_base() -> None:
    make = partial(module, quantization=Quantization(bits=4))
    expected = [fit(make(seed=seed), 2) for seed in (0, 1)]
    lanes = SideBySide(prepared([make(seed=seed) for seed in (0, 1)], 2), num_crews=2).run()
    assert [lane.error for lane in lanes] == [None] * 2
    for lane, vectors in zip(lanes, expected, strict=True):
        torch.testing.assert_close(lane.result, vectors, rtol=0, atol=1e-6)


def test_experiments_can_not_share_a_copy_for_rollouts() -> None:
    loss = PolicyGradient(correction=TruncatedImportance())
    chosen = Quantization(where="rollouts")
    experiment = LaneModule(quantization=chosen, loss=loss)
    told = r"model.quantization.where = 'rollouts': must be both in a sweep"
    with pytest.raises(ConfigError, match=told):
        experiment.setup("fit")


def refuse(completions: Any) -> list[float]:
    raise KeyError("everything")


refuse.in_process = True  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
def test_an_experiment_that_fails_ends_alone() -> None:
    expected = fit(module(), 3)
    rewards = [WeightedReward(reward=refuse)]
    lanes = SideBySide(prepared([module(), module(rewards=rewards), module(rate=1e9)], 3)).run()
    assert torch.equal(lanes[0].result, expected)
    assert isinstance(lanes[1].error, KeyError)


def variety(completions: Any) -> list[float]:
    return [float(len(set(completion.text))) for completion in completions]


class Unloadable:
    """A reward that no worker can load."""

    def warm_up(self) -> None:
        raise KeyError("why")

    def __call__(self, completions: Any) -> list[float]:
        return [1.0] * len(completions)


@pytest.mark.filterwarnings("ignore")
def test_an_experiment_whose_reward_can_not_be_loaded_ends_alone() -> None:
    def others() -> list[SteeringModule]:
        rewards = [WeightedReward(reward=variety)]
        return [module(rewards=rewards), module(rewards=rewards, seed=1)]

    expected = [fit(experiment, 2) for experiment in others()]
    wrong = module(rewards=[WeightedReward(reward=Unloadable())])
    broken, *lanes = SideBySide(prepared([wrong, *others()], 2), num_crews=1).run()
    assert isinstance(broken.error, ConfigError)
    assert "can't load Unloadable" in str(broken.error)
    assert "variety" not in str(broken.error)
    assert [lane.error for lane in lanes] == [None, None]
    for lane, vectors in zip(lanes, expected, strict=True):
        assert vectors.abs().max() > 0.01
        torch.testing.assert_close(lane.result, vectors, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_mistake_is_named_with_its_experiment_before_anything_is_loaded() -> None:
    wrong = module(steering=SteeringVectors(layers=[9]))
    experiments = prepared([module(), wrong], 3)
    with pytest.raises(ConfigError, match=r"experiment e1: model\.steering\.layers = \[9\]"):
        SideBySide(experiments).run()
    assert [experiment.module.policy.model for experiment in experiments] == [None, None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("raised", "expected", "told"),
    [
        (KeyError("of a callback"), RuntimeError, r"^experiment e1: KeyError: 'of a callback'$"),
        (SystemExit(143), SystemExit, "^143$"),
    ],
)
def test_any_error_before_the_base_is_loaded_is_named_with_its_experiment(
    raised: BaseException, expected: type[BaseException], told: str
) -> None:
    def fails() -> None:
        raise raised

    experiments = prepared([module(), module(seed=1)], 3)
    experiments[1].fit = fails
    with pytest.raises(expected, match=told) as caught:
        SideBySide(experiments).run()
    assert caught.value.__cause__ is (raised if expected is RuntimeError else None)


def test_the_end_of_a_run_leaves_the_base_on_its_device() -> None:
    """Lightning moves a module to the CPU then, but other experiments go on."""
    experiment = LaneModule()
    experiment.policy.model = torch.nn.Linear(2, 2, device="meta")
    experiment.cpu()
    assert experiment.policy.model.weight.device.type == "meta"
