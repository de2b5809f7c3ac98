"""What comes of mistakes: one clear message each, and no run is ended by what only shows."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from tests.integration.helpers import set_in

BOXLESS = "{question}"
MISTAKES = [
    ("model.bas", "x", ["model.bas", "Did you mean model.base"]),
    ("model.sampling.group_size", "many", ["model.sampling.group_size", "whole number"]),
    ("model.sampling.group_size", 1, ["group_size = 1", "RLOO", "8 or more"]),
    ("model.sampling.group_size", 0, ["error: model.sampling.group_size = 0", "at least 1"]),
    ("model.eval_sampling", {"top_p": -0.1}, ["error: model.eval_sampling.top_p = -0.1"]),
    ("model.kl_in_reward", {"weight": 0}, ["model.kl_in_reward.weight = 0", "kl_in_reward: null"]),
    ("model.length_in_reward", {"weight": 1}, ["length_in_reward.weight = 1", "below 1"]),
    ("model.dynamic_sampling", {"max_rounds": 0}, ["model.dynamic_sampling.max_rounds = 0"]),
    (
        "model.guidance",
        {"text": "{question}!", "num_guided": 1},
        ["model.guidance = 'on'", "ScoreFunction", "steer_lightning.losses.Clip"],
    ),
    ("model.guidance", {"text": "Think!", "num_guided": 1}, ["guidance.text = 'Think!'"]),
    ("model.updates", {"num_passes": 2}, ["model.updates.num_passes = 2", "ScoreFunction"]),
    (
        "model.loss",
        {
            "class_path": "steer_lightning.losses.PolicyGradient",
            "init_args": {"objective": "steer_lightning.losses.Clip"},
        },
        ["model.loss.objective = 'Clip'", "model.updates.num_passes"],
    ),
    (
        "model.loss",
        {
            "class_path": "steer_lightning.losses.PolicyGradient",
            "init_args": {"objective": "steer_lightning.losses.TokenMean"},
        },
        ["objective"],
    ),
    ("model.sampling.temperature", 0, ["temperature = 0", "Greedy"]),
    ("model.sampling.top_p", 0.9, ["top_p = 0.9", "off policy"]),
    ("model.sampling.top_k", 5, ["top_k = 5", "must be 0"]),
    (
        "model.sampling.max_new_tokens",
        254,
        ["max_new_tokens = 254", "256 positions", "to 252 or less"],
    ),
    ("model.attn_implementation", "flash_attention_2", ["model.base", "FlashAttention2"]),
    ("trainer.gradient_clip_val", 1.0, ["gradient_clip_val = 1.0", "model.gradient_clip"]),
    ("trainer.accumulate_grad_batches", 2, ["accumulate_grad_batches = 2", "data.batch_size"]),
    ("model.dtype", "fp8", ["model.dtype", "bfloat16"]),
    ("model.steering", {"layers": "5-9"}, ["'5-9'", "0 to 2", "3 decoder layers"]),
    ("model.steering", {"layers": "first"}, ["layers", "8-15"]),
    ("model.steering", {"init_from": "none.safetensors"}, ["init_from", "no such file"]),
    ("model.base", "empty", ["model.base = 'empty': the folder contains no config.json", "hub id"]),
    ("model.base", "/nowhere", ["model.base", "/nowhere", "no such folder"]),
    ("model.base", "org/not-there", ["model.base", "org/not-there", "local folder"]),
    ("model.rewards.0.reward.class_path", "steer_lightning.rewards.FormatRewar", ["FormatReward"]),
    ("model.rewards.0.reward.init_args", {"patern": "x"}, ["patern", "Did you mean pattern"]),
    ("model.rewards", [], ["model.rewards", "nothing to learn"]),
    ("model.rewards", [{"reward": "my_file.nothing"}], ["my_file", "current folder"]),
    (
        "model.optimizer.class_path",
        "bitsandbytes.optim.AdamW8bit",
        ["min_8bit_size", "768 elements"],
    ),
    (
        "model.gradient_clip",
        {"class_path": "steer_lightning.optim.NormClip", "init_args": {"max_norm": 0}},
        ["above 0"],
    ),
    (
        "data.train.init_args.limit",
        0,
        ["error: data.train.init_args.limit = 0: must be at least 1"],
    ),
    ("data.template.init_args.text", "no question", ["{question}", "never sees the problem"]),
    (
        "data.train.init_args.path",
        "none.jsonl",
        ["error: data.train.init_args.path = 'none.jsonl': there is no such file"],
    ),
    (
        "data.train.init_args.answer_column",
        "gold",
        ["error: data.train.init_args.answer_column = 'gold': ", "question, answer"],
    ),
    (
        "data.train.init_args.path",
        "empty.jsonl",
        ["error: data.train.init_args.path = 'empty.jsonl': holds no rows"],
    ),
    ("data.batch_size", 50, ["data.batch_size = 50", "only 20"]),
    ("data.max_prompt_tokens", 1, ["max_prompt_tokens", "all 20 prompts"]),
    ("trainer.precision", "bf16-true", ["trainer.precision", "model.dtype"]),
    ("trainer.accelerator", "gpu", ["trainer.accelerator = 'gpu'", "Set trainer.accelerator: cpu"]),
    ("trainer.accelerator", "tpu", ["trainer.accelerator = 'tpu'", "Set trainer.accelerator: cpu"]),
    (
        "trainer",
        {"max_steps": -1, "max_epochs": -1, "accelerator": "cpu"},
        ["trainer.max_steps", "max_epochs"],
    ),
    ("seed_everything", -1, ["seed_everything = -1", "from 0 to"]),
    ("trainer.callbacks.0.init_args", {}, ["BenchmarkEval.benchmarks", "data.val"]),
    (
        "trainer.callbacks",
        [{"class_path": "steer_lightning.callbacks.RunSummary"}] * 2,
        ["trainer"],
    ),
    ("trainer.default_root_dir", "train.jsonl", ["default_root_dir", "must be a folder"]),
    ("trainer.default_root_dir", "train.jsonl/x", ["default_root_dir", "is a file"]),
    (
        "trainer.default_root_dir",
        "/proc/x/y",
        ["'/proc/x/y': no folder can be created", "write to"],
    ),
    ("trainer.default_root_dir", None, ["default_root_dir", "must be a folder"]),
    ("ckpt_path", "train.jsonl", ["ckpt_path", "can't be read", "init_from"]),
    ("model.optimizer.init_args", {"lr": -1.0}, ["model.optimizer", "Invalid learning rate"]),
    ("model.optimizer.init_args", {"lr": "fast"}, ["model.optimizer.lr", "a number"]),
    ("model.optimizer", {"class_path": "torch.optim.LBFGS"}, ["LBFGS", "AdamW8bit"]),
    (
        "model.sampling.eos_token_ids",
        None,
        ["model.sampling.eos_token_ids: must be a list, not null. Leave it out for its default."],
    ),
    (
        "model.sampling.stop_strings",
        "x",
        ["must be a list. Set --model.sampling.stop_strings='[x]'"],
    ),
    (
        "model.rewards",
        "my.MathReward",
        ["must be a list", """Set --model.rewards='[{"reward": "my.MathReward"}]'"""],
    ),
    (
        "model.rewards",
        [{"reward": "own_rewards.two"}],
        ["'own_rewards.two'", "It takes (completion, answer)", "takes one argument, the list of"],
    ),
    (
        "model.rewards",
        [{"reward": {"class_path": "own_rewards.Trl"}}],
        ["'own_rewards.Trl'", "It takes (prompts, completions, **kwargs)", "def my_reward("],
    ),
    (
        "model.rewards",
        [{"reward": {"class_path": "own_rewards.NoCall"}}],
        ["'own_rewards.NoCall'", "the class has no method __call__", "def my_reward("],
    ),
    ("model.steering", {"init_from": "train.jsonl"}, ["train.jsonl", "safetensors"]),
    ("data.train", None, ["data.train = None", "must be set"]),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "steer_lightning.callbacks.BenchmarkEval",
                "init_args": {"sampling": {"group_size": size, "max_new_tokens": 4}},
            }
            for size in (1, 2)
        ],
        ["validation", "another BenchmarkEval"],
    ),
    (
        "model.advantage",
        "GRPOO",
        ["model.advantage = 'GRPOO'", "Known names: BestOf, DrGRPO, GRPO, MaxRL, Mov"],
    ),
    ("model.optimizer", {"lr": 0.1}, ["model.optimizer: needs the name of a class", "NAME"]),
    (
        "data.template.class_path",
        "Chat",
        ["data.template", "Known names: ChatTemplate, PlainTemplate."],
    ),
    ("trainer.callbacks", [{"class_path": "BenchmarkEva"}], ["BenchmarkEva", "add its module"]),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "steer_lightning.callbacks.LastCheckpoint",
                "init_args": {"every_n_steps": 0},
            }
        ],
        ["LastCheckpoint.every_n_steps = 0"],
    ),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": "x", "mode": "up"},
            }
        ],
        ["EarlyStopping", "can be min, max"],
    ),
    (
        "trainer.callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"every_n_train_steps": -3},
            }
        ],
        ["every_n_train_steps"],
    ),
    (
        "trainer.logger",
        {"class_path": "lightning.pytorch.loggers.WandbLogger"},
        ["WandbLogger", "wandb"],
    ),
    ("ckpt_path", "none.ckpt", ["ckpt_path", "no such file"]),
]


OWN_REWARDS = """
def two(completion, answer):
    return [1.0]

class Trl:
    def __call__(self, prompts, completions, **kwargs):
        return [0.0 for _ in completions]

class NoCall:
    pass
"""


@pytest.mark.parametrize(
    ("key", "value", "told"),
    MISTAKES,
    ids=[f"{key}={str(value)[:20]}" for key, value, _ in MISTAKES],
)
def test_each_mistake_gets_one_clear_message(
    config,
    tmp_path: Path,
    key: str,
    value: object,
    told: list[str],
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steer_lightning.cli import main

    if key == "trainer.accelerator" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    if key == "trainer.logger" and "wandb" in told and find_spec("wandb"):
        pytest.skip("wandb is installed")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "own_rewards.py").write_text(OWN_REWARDS)
    if value == {}:
        del config["data"]["val"]
    if key == "trainer":
        value = {**config["trainer"], **value}  # type: ignore[dict-item]
    set_in(config, key, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "config.yaml"]) == 2
    output = capsys.readouterr()
    message = output.err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    for part in told:
        assert part in message
    assert "Traceback" not in output.err + output.out
    assert not list(tmp_path.glob("runs/*")), "a run that never began leaves no folder"


SHOWS = """
from steer_lightning.callbacks import LensCallback, RolloutTable

class Lens(LensCallback):
    def _tokens(self, policy, vectors):
        raise ValueError("no tokens")

class Table(RolloutTable):
    def _show(self, step, number):
        raise TypeError("no show")
    def on_fit_end(self, trainer, module):
        (self._folder / "step_000001.parquet").write_text("no table")
        super().on_fit_end(trainer, module)

def huge(completions):
    return [3e38 if ord(x.text[:1] or "a") % 2 else -3e38 for x in completions]
"""


def test_what_only_shows_does_not_end_a_run(config, run, tmp_path: Path) -> None:
    (tmp_path / "shows.py").write_text(SHOWS)
    config["model"]["rewards"] = [{"reward": "shows.huge"}]
    evaluation = config["trainer"]["callbacks"][0]["init_args"]
    evaluation["benchmarks"] = {r"$\frac{$": evaluation["benchmarks"]["held_out"]}
    config["trainer"]["callbacks"] += [
        {"class_path": "shows.Lens"},
        {"class_path": "shows.Table", "init_args": {"every_n_steps": 2}},
    ]
    config["trainer"]["enable_progress_bar"] = True
    done = run(config)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for told in (
        "a look through the lens is skipped: ValueError: no tokens",
        "the printing of completions is skipped: TypeError: no show",
        "rollouts, is skipped: ArrowInvalid",
        "loss or gradient not finite",
    ):
        assert told in said, told
    folder = tmp_path / "runs/run-1"
    assert json.loads((folder / "summary.json").read_text())["num_steps"] == 4, "it has ended"
    assert (folder / "reward_curve.png").exists()
    assert (folder / "rollouts/step_000002.parquet").exists(), "what can't be joined is kept"
    again = run(config)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs/run-2").exists(), "there is nothing to go on with"
    assert "resuming from" not in again.stdout


def test_a_reward_that_misbehaves_is_named(config, run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def short(completions):\n    return [1.0, 2.0]\n")
    config["model"]["rewards"] = [{"reward": "bad.short"}]
    done = run(config)
    assert done.returncode == 2
    assert "reward short" in done.stderr.splitlines()[-1]
    assert "one score for each of 1 completions (it returned '2 scores')" in done.stderr
