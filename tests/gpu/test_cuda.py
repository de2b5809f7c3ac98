"""What a GPU does otherwise than a CPU; `pytest -m gpu tests/gpu` on a machine that has one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.steering import FullFinetune, LoRA, Steering, SteeringVectors
from steer_lightning.testing import ARCHITECTURES, check_engine, make_prompts, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.types import Rollouts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
TEXTS = ["a", "some words", "quite a few more words than before", "b c"]
SAMPLING = Sampling(group_size=4, max_new_tokens=12)


def on(device: str, architecture: str, steering: Steering | None = None) -> Policy:
    """The same policy on any device."""
    policy = tiny_policy(architecture, steering)
    if isinstance(policy.steering, SteeringVectors):
        torch.manual_seed(0)
        policy.steering.set_vectors(torch.randn(policy.steering.vectors.shape) * 0.1)
    policy.to(device)
    return policy


def completions(policy: Policy, engine: DecodeEngine | GenerateEngine) -> Rollouts:
    engine.setup(policy)
    return engine.generate(make_prompts(TEXTS), SAMPLING, seed=0, step=0)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"falcon"}))
def test_both_engines_draw_the_same_tokens(architecture: str) -> None:
    policy = on("cuda", architecture)
    engine = DecodeEngine()
    ours, theirs = (completions(policy, e) for e in (engine, GenerateEngine()))
    assert engine.fallback is None
    check_engine(engine, policy)
    assert torch.equal(ours.completion_ids.cpu(), theirs.completion_ids.cpu())
    torch.testing.assert_close(ours.logprobs.cpu(), theirs.logprobs.cpu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_the_gradient_is_that_of_a_cpu(architecture: str, packed: bool) -> None:
    advantages = torch.linspace(-1, 1, len(TEXTS) * 4).view(len(TEXTS), 4)
    rollouts = completions(on("cpu", architecture), DecodeEngine())
    found = []
    for device in ("cpu", "cuda"):
        policy = on(device, architecture)
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=4096, packed=packed
        )
        gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
        (vectors,) = policy.steering.parameters()
        assert vectors.grad is not None
        found.append(vectors.grad.cpu())
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], atol=1e-4 * found[0].abs().max().item(), rtol=0)


@pytest.mark.parametrize("kind", [LoRA, FullFinetune])
def test_other_kinds_have_the_gradient_of_a_cpu(kind: type[Steering]) -> None:
    advantages = torch.linspace(-1, 1, len(TEXTS) * 4).view(len(TEXTS), 4)
    rollouts = completions(on("cpu", "qwen2"), DecodeEngine())
    torch.manual_seed(0)
    first = on("cpu", "qwen2", kind())
    second = on("cuda", "qwen2", kind())
    second.steering.load_state_dict(first.steering.state_dict())
    for policy in (first, second):
        gradient = BatchGradient(
            policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=4096
        )
        gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
    for one, two in zip(first.steering.parameters(), second.steering.parameters(), strict=True):
        if one.grad is None:
            assert two.grad is None
            continue
        bound = max(1e-6, 1e-3 * one.grad.abs().max().item())
        torch.testing.assert_close(two.grad.cpu(), one.grad, atol=bound, rtol=0)  # type: ignore[union-attr]


def test_memory_that_runs_out_halves_the_tokens_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Real: torch is allowed a little memory, and the cache's room does not fit."""
    policy = on("cuda", "llama")
    engine = DecodeEngine(max_tokens_in_flight=1 << 22)
    engine.setup(policy)
    expected = engine.generate(make_prompts(TEXTS), SAMPLING, seed=0, step=0)
    prompts = make_prompts([f"{k} " + "long " * 200 for k in range(1024)])
    sampling = replace(SAMPLING, max_new_tokens=64)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((held + (320 << 20)) / total)
    try:
        many = engine.generate(prompts, sampling, seed=0, step=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine._fitting < 1 << 22
    assert engine.max_tokens_in_flight == 1 << 22, "what the user has set stays"
    assert "the rollout restarts with" in caplog.text
    assert len(many.texts) == 1024 * 4
    again = engine.generate(make_prompts(TEXTS), SAMPLING, seed=0, step=0)
    assert torch.equal(again.completion_ids, expected.completion_ids)


def command_line(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A new process: in a fork of this one CUDA can't be used."""
    command = [sys.executable, "-m", "steer_lightning", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def settings(root: Path, **trainer: object) -> dict[str, object]:
    config = yaml.safe_load((root / "configs/quickstart.yaml").read_text())
    evaluation = config["trainer"]["callbacks"][0]["init_args"]
    evaluation["benchmarks"]["arithmetic"]["init_args"]["num_problems"] = 256
    config["trainer"] |= {"accelerator": "gpu", "devices": 1, "default_root_dir": "runs", **trainer}
    return config


def fit(config: dict[str, object], folder: Path) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = command_line("fit", "--config", str(folder / "config.yaml"), folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs/run-1"


EIGHT_BIT = {
    "class_path": "bitsandbytes.optim.AdamW8bit",
    "init_args": {"lr": 0.02, "betas": [0.9, 0.95], "weight_decay": 0.0, "min_8bit_size": 0},
}


def test_the_quickstart_learns_in_bf16_with_an_8bit_optimizer(root: Path, tmp_path: Path) -> None:
    config = settings(root, max_steps=30)
    config["model"] |= {"dtype": "bfloat16", "optimizer": EIGHT_BIT}  # type: ignore[operator]
    run = fit(config, tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["optimizer"]["moments"] == ["uint8"]
    assert summary["accuracy_before"]["arithmetic"] <= 0.4
    assert summary["accuracy_after"]["arithmetic"] >= 0.7


@pytest.mark.parametrize("strategy", ["SteeringFSDP", "SteeringFSDP2"])
def test_a_sharded_run_over_nccl_learns(root: Path, tmp_path: Path, strategy: str) -> None:
    """One process, which has all shards: gathering, hooks and collectives are the real ones."""
    path = f"steer_lightning.strategy.{strategy}"
    config = settings(root, max_steps=20, strategy={"class_path": path})
    summary = json.loads((fit(config, tmp_path) / "summary.json").read_text())
    assert summary["accuracy_after"]["arithmetic"] >= 0.7


def test_result_files_work_on_a_gpu(root: Path, tmp_path: Path) -> None:
    run = fit(settings(root, max_steps=2), tmp_path)
    file = str(run / "steering_vectors.safetensors")
    words = ["--config", str(root / "configs/evaluate/quickstart.yaml"), "--vectors", file]
    for command in (
        ["evaluate", *words, "--output", "scores"],
        ["lens", "--vectors", file, "--output", "lens"],
        ["export", "--vectors", file, "--to", "transformers", "--output", "merged"],
    ):
        done = command_line(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "gpt_neox"])
def test_captured_passes_draw_the_same_tokens(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows end here and there, and wait; the same policy is steered otherwise the second time."""
    policy = on("cuda", architecture)
    prompts = make_prompts([f"{text} {k}" for k in range(4) for text in TEXTS])
    sampling = Sampling(group_size=8, max_new_tokens=200, eos_token_ids=[60, 61])
    capturing, plain = DecodeEngine(8000), DecodeEngine(8000, cuda_graphs=False)
    for engine in (capturing, plain):
        engine.setup(policy)
    assert capturing._graphs is not None, caplog.text
    for scale in (1.0, -3.0):
        policy.steering.set_vectors(policy.steering.vectors.detach() * scale)
        found, expected = (
            engine.generate(prompts, sampling, seed=1, step=2) for engine in (capturing, plain)
        )
        assert torch.equal(found.completion_ids, expected.completion_ids)
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-4, rtol=0)
