"""Real processes over gloo: the same result for any number of them, and one run's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from steer_lightning.callbacks.checkpoint_file import checksum, load_checkpoint
from steer_lightning.steering import load_vectors
from steer_lightning.testing import byte_tokenizer, save_tiny
from tests.distributed.conftest import LIGHTNING, TORCHRUN, Fit
from tests.integration.conftest import Config, add_arms
from tests.integration.test_algorithms import EVERYTHING, GUIDED, RARE

pytestmark = pytest.mark.multi_process

BY_LAYER = {
    "class_path": "steer_lightning.strategy.SteeringFSDP2",
    "init_args": {"gather_for_rollouts": False},
}
PAIRS = {
    "class_path": "steer_lightning.strategy.SteeringFSDP2",
    "init_args": {"shard_size": 2},
}
ALWAYS_BY_LAYER = {
    "class_path": "steer_lightning.strategy.SteeringFSDP",
    "init_args": {"sharding_strategy": "FULL_SHARD"},
}


SMALL = {
    **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1},
}
"""Sizes of a Granite that fit `byte_tokenizer`."""


def vectors(run: Path) -> torch.Tensor:
    return load_vectors(run / "steering_vectors.safetensors").vectors


def completions(run: Path) -> list[tuple[Any, ...]]:
    rows = pq.read_table(run / "rollouts.parquet").to_pylist()
    keys = ("step", "prompt_id", "sample", "completion", "reward", "advantage")
    return sorted(tuple(row[key] for key in keys) for row in rows)


def assert_same_lens(run: Path, first: Path) -> None:
    """The unembedding is seen however it is sharded; what is written is written once."""
    found, expected = (json.loads((x / "lens.json").read_text()) for x in (run, first))
    assert found["first_token"]["kl"] == pytest.approx(expected["first_token"]["kl"], rel=1e-3)
    for ours, theirs in zip(found["layers"], expected["layers"], strict=True):
        assert ours["stream_rms"] == pytest.approx(theirs["stream_rms"], rel=1e-4)
        ours, theirs = (dict(map(tuple, x["top"]["dot"][:5])) for x in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-7)
    (line,) = (run / "lens.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_one_process_is_enough(fit: Fit, strategy: str, tmp_path: Path) -> None:
    """As where `devices: auto` finds one GPU."""
    for name in (strategy, "auto"):
        ended = fit(1, name)
        assert ended.succeeded(), ended.stderr
    run, alone = (vectors(tmp_path / f"runs/run-{k}") for k in (1, 2))
    torch.testing.assert_close(run, alone, atol=1e-6, rtol=0)


Try = tuple[int, Any, tuple[str, ...]]
SOME: list[Try] = [(2, "auto", LIGHTNING)]
SOME += [(3, "fsdp2", ())]  # 32 numbers do not divide by 3
OTHERS: list[Try] = [(2, "fsdp2", ()), (2, BY_LAYER, ()), (2, ALWAYS_BY_LAYER, ()), (4, "ddp", ())]
OTHERS += [(4, PAIRS, ()), (2, "fsdp", ())]


@pytest.mark.parametrize(
    "tries", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"]
)
def test_the_result_does_not_depend_on_the_number_of_processes(
    fit: Fit, plain_steps: Config, tmp_path: Path, tries: list[Try]
) -> None:
    add_arms(plain_steps)
    for number, (processes, strategy, launcher) in enumerate([(1, "auto", ()), *tries], 1):
        done = fit(processes, strategy, "--ckpt_path=new", launcher=launcher)
        assert done.succeeded(), f"{strategy}: {done.stderr}"
        assert len(list((tmp_path / "runs").iterdir())) == number, "one folder a run"
        run, first = tmp_path / f"runs/run-{number}", tmp_path / "runs/run-1"
        torch.testing.assert_close(vectors(run), vectors(first), rtol=0, atol=1e-8)
        assert completions(run) == completions(first)
        assert_same_lens(run, first)
        facts, expected = (json.loads((x / "summary.json").read_text()) for x in (run, first))
        same = ("accuracy_before", "accuracy_after", "interval_before", "interval_after", "arms")
        for key in (*same, "base_sha256", "num_steps"):
            assert facts[key] == expected[key], (strategy, key)
        assert ("one after another" in done.stderr) == ("fsdp" in json.dumps(strategy).lower())
        assert ("can't be packed" in done.stderr) == (strategy in ("fsdp", ALWAYS_BY_LAYER))
    assert float(vectors(first).norm()) > 1e-3


@pytest.mark.slow
def test_absolute_positions_are_those_of_the_text_under_fsdp1(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    """A process pads its prompts of unequal length, which GPT-2 must not count."""
    config["model"]["base"] = save_tiny(tmp_path / "gpt2", "gpt2")
    config["model"]["tokens_per_micro_batch"] = 1000  # rows of both prompts of a process at once
    for strategy, processes in (("auto", 1), ("fsdp", 2)):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.succeeded(), done.stderr
    first, sharded = (vectors(tmp_path / f"runs/run-{k}") for k in (1, 2))
    assert float(first.norm()) > 1e-3
    torch.testing.assert_close(sharded, first, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_factor_of_the_logits_is_found_under_fsdp(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    model = GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=0.25))
    model.save_pretrained(tmp_path / "granite")
    byte_tokenizer().save_pretrained(tmp_path / "granite")
    config["model"]["base"] = str(tmp_path / "granite")
    for strategy, processes in (("auto", 1), ("fsdp2", 2), ("fsdp", 2)):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.succeeded(), done.stderr
        assert ("can't be packed" in done.stderr) == (strategy == "fsdp")
    first, *sharded = (vectors(tmp_path / f"runs/run-{k}") for k in (1, 2, 3))
    assert float(first.norm()) > 1e-3
    for found in sharded:
        torch.testing.assert_close(found, first, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_run_of_4_processes_goes_on_with_1_and_with_2(fit: Fit, tmp_path: Path) -> None:
    assert fit(4, "fsdp2", "--trainer.max_steps=3").succeeded()
    saved = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    assert saved.stat().st_size < 100_000
    for number, processes in ((2, 1), (3, 2)):
        done = fit(processes, "auto", "--trainer.max_steps=5", f"--ckpt_path={saved}")
        assert done.succeeded(), done.stderr
        kept = tmp_path / f"runs/run-{number}/checkpoints/previous.ckpt"
        assert load_checkpoint(kept)["global_step"] == 4
    assert fit(1, "auto", "--trainer.max_steps=5", "--ckpt_path=new").succeeded()
    for number in (2, 3):
        found, whole = vectors(tmp_path / f"runs/run-{number}"), vectors(tmp_path / "runs/run-4")
        torch.testing.assert_close(found, whole, rtol=0, atol=3e-6)


@pytest.mark.slow  # the one before would hardly end the same with another state
def test_what_4_processes_saved_is_what_1_and_2_load(fit: Fit, tmp_path: Path) -> None:
    assert fit(4, "fsdp2").succeeded()
    saved = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    (tmp_path / "runs/run-1/summary.json").unlink()  # interrupted behind its last step
    for number, processes in ((2, 1), (3, 2)):
        done = fit(processes, "auto", f"--ckpt_path={saved}")
        assert done.succeeded(), done.stderr
        ours = load_checkpoint(tmp_path / f"runs/run-{number}/checkpoints/last.ckpt")
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert checksum(ours[key]) == checksum(load_checkpoint(saved)[key]), key


def test_torchrun_starts_one_run(fit: Fit, tmp_path: Path) -> None:
    done = fit(2, "fsdp2", launcher=(*TORCHRUN, "--nproc-per-node=2", "-m", "steer_lightning"))
    assert done.succeeded(), done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run-1"]
    assert done.stdout.count("steps in") == 1


@pytest.mark.slow
def test_validation_is_the_same_and_told_once(fit: Fit, config: Config) -> None:
    letters = config["model"]["rewards"][0]["reward"]
    config["model"].update(verifier=letters, eval_sampling={"group_size": 2, "max_new_tokens": 6})
    told = []
    for processes, strategy in ((1, "auto"), (2, "ddp"), (2, BY_LAYER)):
        done = fit(processes, strategy, command="validate")
        assert done.succeeded(), done.stderr
        told.append(re.findall(r"validation/\w+ +│ +([\d.]+)", done.stdout))
        assert "sync_dist" not in done.stderr
    assert len(told[0]) == 6, "accuracy, its interval, length, cut off, unscored"
    assert 0 < float(told[0][0]) < 1
    assert told[1] == told[2] == told[0]


@pytest.mark.slow
def test_generate_is_refused_where_it_would_read_shards(fit: Fit, config: Config) -> None:
    config["model"]["engine"] = {"class_path": "steer_lightning.rollout.GenerateEngine"}
    done = fit(2, "fsdp")
    assert done.statuses == [2, 2]
    assert "model.engine = 'GenerateEngine'" in done.stderr
    assert "strategy: fsdp2" in done.stderr
    done = fit(2, BY_LAYER)  # each token gathers each layer, in both processes
    assert done.succeeded(), done.stderr


def test_too_few_prompts_and_foreign_strategies_are_refused(fit: Fit, config: Config) -> None:
    config["data"]["batch_size"] = 1
    done = fit(2)
    assert done.statuses == [2, 2]
    assert "data.batch_size = 1: must be at least the number of processes, 2" in done.stderr
    done = fit(1, "deepspeed")
    assert done.statuses == [2]
    config["data"]["batch_size"] = 4
    done = fit(2, {"class_path": "lightning.pytorch.strategies.DDPStrategy"})
    assert done.statuses == [2, 2]
    assert "trainer.strategy = 'DDPStrategy'" in done.stderr


@pytest.mark.slow
def test_guided_groups_do_not_depend_on_the_number_of_processes(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    config["model"].update(GUIDED)
    config["model"]["rewards"][0]["reward"]["init_args"] = {"pattern": RARE}
    config["data"]["order"] = {"class_path": "steer_lightning.data.ByPassRate"}
    config["trainer"]["callbacks"] = []
    for number, (processes, strategy) in enumerate([(1, "auto"), (2, "ddp"), (2, "fsdp2")], 1):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.succeeded(), f"{strategy}: {done.stderr}"
        run, first = tmp_path / f"runs/run-{number}", tmp_path / "runs/run-1"
        torch.testing.assert_close(vectors(run), vectors(first), rtol=0, atol=1e-5)
        for row, expected in zip(completions(run), completions(first), strict=True):
            assert row[:-1] == expected[:-1]
            assert row[-1] == pytest.approx(expected[-1], abs=1e-4)
    guided = [row["guided"] for row in pq.read_table(first / "rollouts.parquet").to_pylist()]
    assert 0 < sum(guided) < len(guided)


@pytest.mark.slow
def test_no_algorithm_depends_on_the_number_of_processes(
    fit: Fit, config: Config, tmp_path: Path
) -> None:
    config["model"].update(EVERYTHING)
    config["model"]["rewards"][0]["reward"]["init_args"] = {"pattern": "^[^a-z]*[a-m]"}
    config["data"]["order"] = {"class_path": "steer_lightning.data.ByPassRate"}
    config["trainer"]["callbacks"] = []
    for number, (processes, strategy) in enumerate([(1, "auto"), (2, "ddp"), (2, "fsdp2")], 1):
        done = fit(processes, strategy, "--ckpt_path=new")
        assert done.succeeded(), f"{strategy}: {done.stderr}"
        run, first = tmp_path / f"runs/run-{number}", tmp_path / "runs/run-1"
        torch.testing.assert_close(vectors(run), vectors(first), rtol=0, atol=1e-5)
        for row, expected in zip(completions(run), completions(first), strict=True):
            assert row[:-1] == expected[:-1]
            # rounding of the KL is all that equal rewards of a group differ by, over 1e-4
            assert row[-1] == pytest.approx(expected[-1], abs=2e-3)
    assert len(completions(first)) > 2 * 16, "batches were refilled"
    config["model"].update(
        advantage={"class_path": "steer_lightning.advantages.ReinforcePlusPlus"},
        dynamic_sampling=None,
    )
    for processes in (1, 2):
        assert fit(processes, "auto", "--ckpt_path=new").succeeded()
    for row, expected in zip(
        *(completions(tmp_path / f"runs/run-{k}") for k in (4, 5)), strict=True
    ):
        assert row[:-1] == expected[:-1]
        assert row[-1] == pytest.approx(expected[-1], abs=1e-4)
