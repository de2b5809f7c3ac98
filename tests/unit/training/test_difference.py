"""The job of the command `difference`, made of its pieces alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError, PromptDataModule, load_vectors
from steer_lightning.data import PlainTemplate
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import FormatReward, RewardSum, WeightedReward
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import save_tiny
from steer_lightning.training import PromptContrast
from steer_lightning.training.difference import Difference, Settings, as_text
from steer_lightning.types import Problem
from tests.no_eos import save_without_eos


class Questions:
    """Twenty questions."""

    def load(self) -> list[Problem]:
        return [Problem(question=f"q{k}", answer=str(k)) for k in range(20)]


def pieces(folder: Path, **changed: Any) -> dict[str, Any]:
    letters = RewardSum([WeightedReward(reward=FormatReward("[a-m]"))])
    sampling = Sampling(group_size=4, max_new_tokens=4)
    given = {
        "policy": Policy(save_tiny(folder / "base"), steering=SteeringVectors()),
        "engine": GenerateEngine(),
        "sampling": sampling,
        "reward": letters,
        "eval_sampling": Sampling(group_size=1, max_new_tokens=4),
        "verifier": letters,
        "data": PromptDataModule(Questions(), template=PlainTemplate("{question}:"), batch_size=5),
        "seed": 3,
        "max_tokens": 64,
        "settings": Settings(num_prompts=12, num_held_out=8, scales=[0.5]),
        "folder": folder,
        "device": "cpu",
    }
    return {**given, **changed}


def test_the_job_writes_what_it_returns(tmp_path: Path) -> None:
    facts = Difference(**pieces(tmp_path)).run()
    assert json.loads((tmp_path / "difference.json").read_text()) == facts
    assert (facts["num_prompts"], facts["num_completions"], facts["seed"]) == (12, 48, 3)
    assert [row["scale"] for row in facts["scales"]] == [0, 0.5]
    norms = [row["norm"] for row in facts["layers"]]
    vectors = load_vectors(tmp_path / "steering_vectors.safetensors").vectors
    assert vectors.norm(dim=1).tolist() == pytest.approx(norms)


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    one = Sampling(group_size=1, max_new_tokens=4)
    with pytest.raises(ConfigError, match="group_size = 1: must be at least 2"):
        Difference(**pieces(tmp_path, sampling=one))


def test_completions_of_a_quantised_copy_are_refused(tmp_path: Path) -> None:
    """The states and the scale would be those of the whole base."""
    base, rollouts = save_tiny(tmp_path / "base"), Quantization(where="rollouts")
    copied = Policy(base, steering=SteeringVectors(), quantization=rollouts)
    with pytest.raises(ConfigError, match=r"where = 'rollouts': must be both outside of training"):
        Difference(**pieces(tmp_path, policy=copied))
    whole = Policy(base, steering=SteeringVectors(), quantization=Quantization())
    assert Difference(**pieces(tmp_path, policy=whole)).policy.base_bits == 4


def test_an_earlier_result_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "difference.json").touch()
    with pytest.raises(ConfigError, match=r"already contains difference\.json"):
        Difference(**pieces(tmp_path))


def test_the_table_is_in_percent() -> None:
    more = {"completion_length": 10.04, "cut_off_share": 0.125}
    base = {"accuracy": 0.25, "accuracy_low": 0.1, "accuracy_high": 0.4}
    other = {"accuracy": 0.5, "accuracy_low": None, "accuracy_high": None}
    none = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    gain = {"difference": 0.25, "difference_low": -0.05, "difference_high": 0.55}
    rows = [{"scale": 0.0, **base, **none, **more}, {"scale": 0.3, **other, **gain, **more}]
    assert as_text(rows).splitlines() == [
        "scale  accuracy           against base         length  cut off",
        "0      25.0 [10.0, 40.0]                       10.0    12.5",
        "0.3    50.0               +25.0 [-5.0, +55.0]  10.0    12.5",
    ]


def test_completions_that_nothing_ends_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(save_without_eos(tmp_path / "endless"), steering=SteeringVectors())
    stopped = Sampling(group_size=4, max_new_tokens=4, stop_strings=["a"])
    Difference(**pieces(tmp_path, policy=policy, sampling=stopped))._load()
    assert "Set eos_token_ids or stop_strings of model.eval_sampling.\n" in caplog.text


def test_a_contrast_of_ones_own(tmp_path: Path) -> None:
    """Of prompts: nothing is sampled for it, so a group of one will do."""
    contrast = PromptContrast(PlainTemplate("up {question}:"), PlainTemplate("{question}:"))
    settings = Settings(num_prompts=12, num_held_out=8, scales=[0.5], contrast=contrast)
    alone = Sampling(group_size=1, max_new_tokens=4)
    facts = Difference(**pieces(tmp_path, settings=settings, sampling=alone)).run()
    assert (facts["contrast"], facts["num_prompts"]) == ("PromptContrast", 12)
    assert facts["summary"] == "12 pairs of prompts, mean of their differences"
    assert "mean_reward" not in facts
    norms = contrast.direction().norm(dim=1).tolist()
    assert [row["norm_of_difference"] for row in facts["layers"]] == pytest.approx(norms)


def test_the_default_contrast_has_its_own_tokens() -> None:
    contrast = PromptContrast(PlainTemplate("up {question}:"), PlainTemplate("{question}:"))
    with pytest.raises(ConfigError, match="num_tokens = 3: contradicts contrast, PromptContrast"):
        Settings(num_tokens=3, contrast=contrast)
