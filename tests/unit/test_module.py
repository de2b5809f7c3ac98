"""The module: what it keeps, learns and tells."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import pytest
import torch

from steer_lightning import PromptDataModule, SteeringModule
from steer_lightning.advantages import RLOO, ReinforcePlusPlus
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.losses import Clip, PolicyGradient
from steer_lightning.rewards import FormatReward, WeightedReward
from steer_lightning.rollout import Sampling, completions_of
from steer_lightning.steering import LoRA, SteeringVectors
from steer_lightning.testing import save_tiny, tiny_model
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.kl_in_reward import KLInReward
from steer_lightning.training.length_in_reward import LengthInReward
from steer_lightning.training.selfcheck import RealRows
from steer_lightning.training.step import Sampled
from steer_lightning.training.update import OptimizerSteps
from tests.no_eos import save_without_eos
from tests.unit.training.helpers import PROMPTS, gradient, quiet_trainer


def test_steps_on_the_gradient_raise_the_reward_and_leave_the_base_alone(
    module: SteeringModule,
) -> None:
    before = module.policy.base_sha256()
    optimizer = torch.optim.Adam([module.policy.steering.weight], lr=0.3)
    sampling = Sampling(group_size=16, max_new_tokens=8)
    module.sampling = sampling
    rewards = []
    for step in range(15):
        rollouts = module.engine.generate(PROMPTS, sampling, seed=0, step=step)
        reward = torch.tensor(module.reward(completions_of(rollouts)).total).view(4, 16)
        rewards.append(reward.mean().item())
        gradient(module, rollouts, RLOO()(reward))
        optimizer.step()
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards
    assert module.policy.base_sha256() == before
    module.policy.model.lm_head.weight.data[0, 0] += 1e-3
    assert module.policy.base_sha256() != before


def test_checkpoints_hold_what_is_trained_and_no_base(module: SteeringModule) -> None:
    assert sorted(module.state_dict()) == [
        "gradient_clip.running",
        "policy.steering.stream",
        "policy.steering.unit",
        "policy.steering.units_measured",
        "policy.steering.weight",
    ]


def test_checkpoints_hold_what_is_trained_alone(tmp_path: Path) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "qwen2"), steering=LoRA(rank=1))
    module.configure_model()
    names = {name.rsplit(".", 1)[0] for name in module.state_dict()}
    assert names == {"gradient_clip", "policy.steering.down", "policy.steering.up"}
    count = sum(p.numel() for p in tiny_model("qwen2").parameters())
    assert module.policy.sharding.num_parameters(module.policy.model) == count


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
@pytest.mark.parametrize("exact", [False, True])
def test_an_exact_module_has_a_ratio_of_exactly_1(tmp_path: Path, exact: bool) -> None:
    module = SteeringModule(
        base=save_tiny(tmp_path / "base"),
        exact=exact,
        sampling=Sampling(group_size=4, max_new_tokens=8),
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
        updates=OptimizerSteps(num_passes=2),
        loss=PolicyGradient(objective=Clip()),
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=12), template=PlainTemplate("{question}="), batch_size=4
    )
    found: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
            assert module.last_step is not None
            found.append(module.last_step.update.mismatch["max"])

    trainer = quiet_trainer(max_steps=3, default_root_dir=tmp_path, callbacks=[Watch()])
    trainer.fit(module, data)
    assert len(found) == 3
    assert all((gap == 0.0) == exact for gap in found), found


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_counts_for_the_run_that_loaded_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[object] = []
    monkeypatch.setattr("steer_lightning.module.restore_random_states", restored.append)
    module = SteeringModule(
        base=save_tiny(tmp_path / "base", "qwen2"),
        sampling=Sampling(group_size=2, max_new_tokens=4),
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
    )
    source = Arithmetic(num_problems=4)
    data = PromptDataModule(
        train=source, val=source, template=PlainTemplate("{question}="), batch_size=4
    )
    trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path)
    trainer.fit(module, data)
    trainer.save_checkpoint(path := str(tmp_path / "one.ckpt"))
    options = {"weights_only": False, "verbose": False}
    quiet_trainer(default_root_dir=tmp_path).validate(module, data, ckpt_path=path, **options)
    quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
    assert not restored
    two = quiet_trainer(max_steps=2, default_root_dir=tmp_path)
    two.fit(module, data, ckpt_path=path, weights_only=False)
    assert len(restored) == 1


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_trained_is_taken_from_the_first_process_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(SteeringVectors, "take_from_first", lambda self: events.append("taken"))
    module = SteeringModule(
        base=save_tiny(tmp_path / "base", "qwen2"),
        steering=SteeringVectors(),
        sampling=Sampling(group_size=2, max_new_tokens=4),
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=4), template=PlainTemplate("{question}="), batch_size=4
    )

    class Watch(L.Callback):
        def on_train_start(self, *args: object) -> None:
            events.append("started")

    quiet_trainer(max_steps=1, default_root_dir=tmp_path, callbacks=[Watch()]).fit(module, data)
    assert events == ["taken", "started"]


@pytest.mark.filterwarnings("ignore")
def test_a_reading_that_real_rows_show_to_be_wrong_serves_the_kl_no_more_than_the_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SteeringModule(
        base=save_tiny(tmp_path / "base"),
        sampling=Sampling(group_size=2, max_new_tokens=4),
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
        kl_in_reward=KLInReward(weight=0.1),
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=2), template=PlainTemplate("{question}="), batch_size=2
    )
    measured: list[bool] = []
    measure = KLInReward.measure

    def watched(self: KLInReward, gradient: BatchGradient, sampled: Sampled) -> torch.Tensor:
        measured.append(gradient.packed)
        return measure(self, gradient, sampled)

    monkeypatch.setattr(KLInReward, "measure", watched)
    reasons = iter(["test"])
    monkeypatch.setattr(RealRows, "_why_not", lambda *args: next(reasons, None))
    quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
    assert measured == [False]
    assert not module.batch_gradient.packed


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
def test_rounding_is_no_signal_for_vectors_that_are_0(tmp_path: Path) -> None:
    """The engine's log-probabilities differ from those of the update in the last bits."""
    module = SteeringModule(
        base=save_tiny(tmp_path / "base"),
        sampling=Sampling(group_size=4, max_new_tokens=8),
        rewards=[WeightedReward(reward=FormatReward(""))],  # all alike
        kl_in_reward=KLInReward(weight=0.1),
        advantage=ReinforcePlusPlus(),
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=4), template=PlainTemplate("{question}="), batch_size=4
    )
    quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
    assert module.last_step is not None
    assert not module.last_step.advantages.any()
    assert isinstance(module.policy.steering, SteeringVectors)
    assert not module.policy.steering.vectors.any()


@pytest.mark.parametrize("mask_overlong", [False, True])
@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
def test_the_length_of_right_completions_is_in_the_advantages_and_not_in_the_rewards(
    tmp_path: Path, mask_overlong: bool
) -> None:
    module = SteeringModule(
        base=save_tiny(tmp_path / "base"),
        sampling=Sampling(group_size=4, max_new_tokens=8, eos_token_ids=list(range(40, 80))),
        rewards=[WeightedReward(reward=FormatReward(""))],
        length_in_reward=LengthInReward(weight=0.5, right="FormatReward"),
        mask_overlong=mask_overlong,
    )
    data = PromptDataModule(
        train=Arithmetic(num_problems=6), template=PlainTemplate("{question}="), batch_size=3
    )
    quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(module, data)
    step = module.last_step
    assert step is not None
    assert (step.rewards == 1).all(), "all are right"
    assert step.finished.any()
    assert not step.finished.all()
    shown = step.finished if mask_overlong else torch.ones_like(step.finished)
    lengths = step.num_tokens.double().masked_fill(~shown, float("nan"))
    order = lengths - lengths.nanmean(1, keepdim=True)
    shaped = step.rewards + module.length_in_reward.shaping(step, shown)
    assert step.advantages.equal(RLOO()(shaped))
    assert ((shaped > 1) == (order < 0)).all(), "what is shorter than the mean gains"
    assert module.policy.steering.vectors.abs().max() > 0, "from groups without a wrong one, too"


def test_a_module_pads_where_packing_is_not_right(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    module = SteeringModule(base=save_tiny(tmp_path, "falcon"))
    module.configure_model()
    with caplog.at_level(logging.WARNING):
        module.on_fit_start()
    assert not module.batch_gradient.packed
    assert "rows of FalconForCausalLM can't be packed" in caplog.text


@pytest.mark.parametrize(
    ("stop_strings", "eval_sampling", "keys"),
    [
        ([], None, "model.sampling and model.eval_sampling"),
        (["a"], None, None),
        (["a"], Sampling(), "model.eval_sampling"),
        ([], Sampling(stop_strings=["a"]), "model.sampling"),
    ],
)
def test_completions_that_nothing_ends_are_told(
    tmp_path: Path,
    stop_strings: list[str],
    eval_sampling: Sampling | None,
    keys: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = SteeringModule(
        base=save_without_eos(tmp_path),
        sampling=Sampling(stop_strings=stop_strings),
        eval_sampling=eval_sampling,
    )
    module.policy.load()
    module.on_fit_start()
    told = [x for x in caplog.text.splitlines() if "names an EOS token" in x]
    assert len(told) == (keys is not None)
    assert all(line.endswith(f" stop_strings of {keys}.") for line in told)
