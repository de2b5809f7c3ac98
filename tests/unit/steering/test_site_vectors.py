"""What all vectors share: units, starts, and the same numbers in sampler and trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import (
    AdaptiveVectors,
    LowRankVectors,
    ProjectedVectors,
    SiteVectors,
    SteeringVectors,
)
from steer_lightning.system.printable import one_line
from steer_lightning.testing import check_engine, make_prompts, save_tiny, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import why_not_packed


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRankVectors(rank=2),
        lambda: LowRankVectors(rank=1, directions="random", site="mlp_output"),
        lambda: AdaptiveVectors(tokens="completion"),
        lambda: ProjectedVectors(count=3, layers=[0, 2]),
    ],
    ids=["trained", "random", "adaptive", "projected"],
)
def test_sampler_and_trainer_agree_and_the_gradient_is_autograds(make) -> None:
    steering: SiteVectors = make()
    policy = tiny_policy("qwen2", steering)
    base = policy.base_sha256()
    for parameter in steering.parameters():
        parameter.data.normal_(std=0.5)
    engine = DecodeEngine()
    prompts = make_prompts(["a", "two words", "a longer prompt"])
    check_engine(engine, policy, prompts)
    assert engine.fallback is None
    assert why_not_packed(policy) is None
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.randn(3, 3)
    parameters = list(steering.parameters())
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // 3].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        ids = torch.tensor([prompt + completion.tolist()])
        logits = policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1]
        logprobs = logits.log_softmax(-1)[range(len(completion)), completion]
        total = total + advantage * logprobs.sum()
    expected = torch.autograd.grad(-total / 9, parameters)
    for checkpointing in (False, True):
        gradients = BatchGradient(
            policy=policy,
            loss=PolicyGradient(),
            temperature=1.0,
            max_tokens=40,
            activation_checkpointing=checkpointing,
        )
        step = gradients.plan(Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(step)
        assert totals.mismatch["max"] < 1e-5
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
            assert gradient.abs().max() > 1e-4
    assert policy.base_sha256() == base


def test_units_scale_the_vectors_and_their_gradient() -> None:
    vectors = SteeringVectors([0, 1]).shaped(2, 2)
    vectors.set_unit(torch.tensor([2.0, 10.0]))
    vectors.weight.data[:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert vectors.vectors.tolist() == [[2.0, 4.0], [30.0, 40.0]]
    vectors.vectors.sum().backward()
    assert vectors.weight.grad[:, :2].tolist() == [[2.0, 2.0], [10.0, 10.0]]
    vectors.set_vectors(torch.tensor([[2.0, 2.0], [5.0, 5.0]]))
    assert vectors.weight[:, :2].tolist() == [[1.0, 1.0], [0.5, 0.5]]
    with pytest.raises(ConfigError, match=r"layers \[0\] have no usable size"):
        vectors.set_unit(torch.tensor([0.0, 1.0]))


def test_init_from_other_layers_is_refused(tmp_path) -> None:
    save_vectors(torch.randn(3, 32), tmp_path / "v.safetensors", base_model="tiny")
    config = SteeringVectors(layers=[1], init_from=str(tmp_path / "v.safetensors"))
    with pytest.raises(ConfigError, match=r"has layers \[0, 1, 2\].*trains layers \[1\]"):
        tiny_policy(steering=config)


def test_a_stream_without_size_is_no_unit() -> None:
    policy = tiny_policy()
    policy.model.model.embed_tokens.weight.data.zero_()
    with pytest.raises(ConfigError, match=r"layers \[0, 1, 2\] have no usable size"):
        policy.measure_units([[1, 2, 3]])


TWO = """
import os, sys
import torch
import torch.distributed as dist
from steer_lightning import attach
from steer_lightning.steering import SteeringVectors, site_vectors
from steer_lightning.testing import tiny_model

rank = 1 if os.fork() == 0 else 0
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
measured = torch.tensor([1.0, 2.0, 4.0]) + 0.5 * rank
site_vectors.measure_rms = lambda *_: measured
site_vectors.measure_kl_size = lambda *_: 3.0 + rank
try:
    for scale, factor in (("rms", 1.0), ("kl", 3.0)):
        vectors, model = SteeringVectors(scale=scale), tiny_model()
        with attach(model, vectors):
            vectors.set_vectors(torch.full((3, 32), 6.0))
            vectors.measure(model, [(torch.tensor([[5, 6, 7]]), torch.ones(1, 3))])
        assert vectors.stream.tolist() == [1.0, 2.0, 4.0]
        assert vectors.unit.tolist() == [factor, 2.0 * factor, 4.0 * factor]
        assert vectors.weight[:, 0].tolist() == [6.0 / unit for unit in vectors.unit.tolist()]
    sys.stdout.write("the same\\n")  # in one piece, also if Python does not buffer
finally:
    dist.destroy_process_group()
"""


def test_all_processes_have_the_units_that_the_first_has_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["the same"] * 2, done.stderr


def test_vectors_of_a_model_of_another_name_are_warned_of(tmp_path, caplog) -> None:
    model = tiny_model()
    model.name_or_path = "org/one"
    for base, told in (("elsewhere/one", False), ("org/two", True)):
        save_vectors(torch.zeros(3, 32), tmp_path / "v.safetensors", base_model=base)
        caplog.clear()
        attach(model, tmp_path / "v.safetensors").remove()
        assert ("were trained on org/two" in caplog.text) == told


def test_vectors_to_start_from_are_checked_before_the_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path / "model", "llama")
    (tmp_path / "model/model.safetensors").unlink()
    save_vectors(torch.zeros(3, 8), tmp_path / "v.safetensors", base_model="x")
    steering = SteeringVectors(init_from=str(tmp_path / "v.safetensors"))
    with pytest.raises(ConfigError, match=r"width 8, but this run trains .* width 32"):
        Policy(folder, steering=steering).load()


def test_repr_says_what_the_vectors_are(tmp_path: Path) -> None:
    made = SteeringVectors([1, 2], site="mlp_output", tokens="prompt")
    told = "SteeringVectors(layers [1, 2], site mlp_output, tokens prompt, for no model yet)"
    assert repr(made) == told
    path = tmp_path / "v.safetensors"
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # of norms 5 and 1
    save_vectors(rows, path, base_model="org/my\n\x1bmodel", layers=[1, 2], num_layers=4)
    assert repr(load_vectors(path)) == (
        "SteeringVectors(layers 1-2 of 4, width 2, site layer_output, tokens all, mean norm 3, "
        f"base {one_line(load_vectors(path).metadata['base_model'])})"
    )
    assert "layers [0, 2] of 3, width 4" in repr(AdaptiveVectors([0, 2]).shaped(4, 3))
    with torch.device("meta"):
        assert "mean norm" not in repr(SteeringVectors().shaped(4, 3))
