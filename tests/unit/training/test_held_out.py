"""Held-out problems are answered, verified and told under the right step and name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from steer_lightning import PromptDataModule, SteeringModule
from steer_lightning.data import PlainTemplate
from steer_lightning.model.sharding import Sharding
from steer_lightning.rewards import FormatReward, RewardPool, RewardSum, WeightedReward
from steer_lightning.rollout import Sampling
from steer_lightning.testing import byte_tokenizer, make_prompts, tiny_model
from steer_lightning.training import held_out
from steer_lightning.training.held_out import HeldOut
from steer_lightning.types import Completion, Problem, Prompt, Rollouts
from tests.no_eos import Questions, save_without_eos
from tests.unit.training.helpers import quiet_trainer

SAMPLING = Sampling(group_size=2, max_new_tokens=3)
PROMPTS = make_prompts(["p0", "p1", "p2", "p3", "p4"])


class Engine:
    """Answers each prompt with a right completion of 3 tokens and a wrong one of 1, cut off."""

    def __init__(self) -> None:
        self.policies: list[Any] = []
        self.asked: list[tuple[list[int], Sampling, int]] = []

    def setup(self, policy: Any) -> None:
        self.policies.append(policy)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, **_: Any
    ) -> Rollouts:
        self.asked.append(([prompt.id for prompt in prompts], sampling, seed))
        mask = torch.arange(3) < torch.tensor([3, 1] * len(prompts))[:, None]
        return Rollouts(
            prompts=tuple(prompts),
            group_size=2,
            completion_ids=mask.long(),
            completion_mask=mask,
            logprobs=torch.zeros(mask.shape),
            finished=torch.tensor([True, False] * len(prompts)),
            texts=("yes", "no") * len(prompts),
        )


class SaysYes:
    in_process = True

    def __call__(self, completions: Sequence[Completion]) -> list[float | None]:
        """p0 can't be judged."""
        return [None if x.question == "p0" else float(x.text == "yes") for x in completions]


class Told(HeldOut):
    def __init__(self, state: TrainerFn, sanity_checking: bool = False) -> None:
        super().__init__()
        self.policy = SimpleNamespace(  # type: ignore[assignment]
            sharding=Sharding(), model=None, tokenizer=None, eos_token_ids=(2,)
        )
        self.engine, self.eval_sampling, self.seed = Engine(), SAMPLING, 7
        self.verifier = RewardSum([WeightedReward(reward=SaysYes())], RewardPool())
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.logged: list[tuple[dict[str, float], Any]] = []
        logger = SimpleNamespace(
            log_metrics=lambda metrics, step: self.lines.append((step, metrics))
        )
        self.fake = SimpleNamespace(
            **{"state": SimpleNamespace(fn=state), "sanity_checking": sanity_checking},
            **{"global_step": 4, "loggers": [logger]},
        )

    @property
    def trainer(self) -> Any:
        return self.fake

    def log_dict(self, metrics: Any, logger: Any = "unset", **_: Any) -> None:  # type: ignore[override]
        self.logged.append((dict(metrics), logger))


EXPECTED = {"accuracy": 0.5, "completion_length": 2.0, "cut_off_share": 0.5, "num_unscored": 2.0}


def measured(module: Told, stage: str) -> dict[str, float]:
    """Answers two batches, and returns what was logged, without the stage."""
    getattr(module, f"on_{stage}_start")()
    getattr(module, f"on_{stage}_epoch_start")()
    for n, batch in enumerate((PROMPTS[:3], PROMPTS[3:])):
        getattr(module, f"{stage}_step")(batch, n)
    getattr(module, f"on_{stage}_epoch_end")()
    ((found, _),) = module.logged
    assert all(name.startswith(f"{stage}/") for name in found)
    return {name.removeprefix(f"{stage}/"): value for name, value in found.items()}


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_the_figures_are_over_all_batches_by_hand(stage: str) -> None:
    module = Told(TrainerFn.VALIDATING if stage == "validation" else TrainerFn.TESTING)
    found = measured(module, stage)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert module.engine.asked == [([0, 1, 2], SAMPLING, 7), ([3, 4], SAMPLING, 7)]
    assert module.engine.policies == [module.policy], "nobody else has handed it over"
    assert module.lines == []
    assert module.logged[0][1] in (None, "unset"), "Lightning logs it"


def test_a_second_epoch_starts_anew() -> None:
    module = Told(TrainerFn.VALIDATING)
    measured(module, "validation")
    module.logged.clear()
    assert measured(module, "validation")["num_unscored"] == 2.0


def test_in_training_the_figures_are_of_the_step_that_has_been_taken() -> None:
    module = Told(TrainerFn.FITTING)
    found = measured(module, "validation")
    assert module.engine.policies == [], "the training has handed the policy over"
    assert module.logged[0][1] is False, "Lightning would log them under the step before"
    ((step, line),) = module.lines
    assert (step, line) == (4, {f"validation/{name}": found[name] for name in found})


def test_a_sanity_check_is_not_written_down() -> None:
    module = Told(TrainerFn.FITTING, sanity_checking=True)
    measured(module, "validation")
    assert module.lines == []


def test_each_process_answers_every_nth_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Told(TrainerFn.TESTING)
    monkeypatch.setattr(held_out, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(held_out, "rank", lambda rank=rank: rank)
        shares.append([prompt.id for prompt in PROMPTS[module.own]])
    assert shares == [[0, 3], [1, 4], [2]]


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
@pytest.mark.parametrize("stop_strings", [[], ["a"]])
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_answers_that_nothing_ends_are_told(
    tmp_path: Path, stage: str, stop_strings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(group_size=1, max_new_tokens=2, stop_strings=stop_strings)
    module = SteeringModule(base=save_without_eos(tmp_path / "base"), eval_sampling=sampling)
    data = PromptDataModule(
        Questions(), Questions(), Questions(), template=PlainTemplate("{question}="), batch_size=1
    )
    trainer = L.Trainer(
        logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu"
    )
    getattr(trainer, stage)(module, data, verbose=False)
    told = "Set eos_token_ids or stop_strings of model.eval_sampling.\n"
    assert caplog.text.count(told) == (not stop_strings)


class LongQuestions:
    """Two questions that are longer than the window of `save_with_window`."""

    def load(self) -> list[Problem]:
        return [Problem(question=f"{k}" * 320, answer="0") for k in range(2)]


def save_with_window(folder: Path) -> str:
    """Saves a tiny model whose window only long texts leave; returns the folder."""
    model = tiny_model("mistral")
    model.config.sliding_window, model.config.max_position_embeddings = 300, 512
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore")  # those of Lightning, which the command leaves out
def test_the_base_can_take_part_in_a_gradient_after_it_was_validated(tmp_path: Path) -> None:
    module = SteeringModule(
        base=save_with_window(tmp_path / "base"),
        dtype="bfloat16",
        sampling=Sampling(group_size=4, max_new_tokens=8),
        rewards=[WeightedReward(reward=FormatReward("[a-m]"))],
    )
    data = PromptDataModule(
        Questions(), LongQuestions(), template=PlainTemplate("{question}="), batch_size=2
    )
    quiet_trainer(default_root_dir=tmp_path).validate(module, data, verbose=False)
    tensors = [*module.policy.model.parameters(), *module.policy.model.buffers()]
    assert tensors
    assert not any(tensor.is_inference() for tensor in tensors)
