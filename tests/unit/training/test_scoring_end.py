"""What scores completions ends with the run, also with one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import PromptDataModule, SteeringModule
from steer_lightning.callbacks import BenchmarkEval
from steer_lightning.data import Arithmetic, PlainTemplate
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import MathReward, RewardSum, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.testing import save_tiny
from tests.unit.training.helpers import quiet_trainer


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
@pytest.mark.parametrize("fails", [True, False])
def test_processes_and_threads_end_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    closed: list[RewardSum] = []
    close = RewardSum.close

    def watched(self: RewardSum) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(RewardSum, "close", watched)
    module = SteeringModule(
        base=save_tiny(tmp_path / "base", "qwen2"),
        sampling=Sampling(group_size=2, max_new_tokens=2),
        rewards=[WeightedReward(reward=MathReward())],
    )
    source = Arithmetic(num_problems=2)
    data = PromptDataModule(
        train=source, val=source, template=PlainTemplate("{question}="), batch_size=2
    )
    benchmark = BenchmarkEval()
    trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path, callbacks=[benchmark])
    if fails:
        running: list[bool] = []

        def load(self: Policy, sharding: object = None) -> None:
            running.append(module.reward_pool._end is not None)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(Policy, "load", load)
        with pytest.raises(RuntimeError, match="out of memory"):
            trainer.fit(module, data)
        assert running == [True]
    else:
        trainer.fit(module, data)
    assert module.reward_pool._end is None
    assert benchmark._judge is not None
    ended = {id(reward) for reward in closed}
    assert ended == {id(reward) for reward in (module.reward, module.verifier, benchmark._judge)}


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_refused_at_once_keeps_its_own_error(tmp_path: Path) -> None:
    """`BenchmarkEval` has made no judge yet."""
    module = SteeringModule(base=save_tiny(tmp_path / "base", "qwen2"))
    benchmark = BenchmarkEval({"a": Arithmetic(num_problems=2)})
    trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path, callbacks=[benchmark])
    with pytest.raises(ValueError, match="needs the template of a PromptDataModule"):
        trainer.fit(module, [0])
