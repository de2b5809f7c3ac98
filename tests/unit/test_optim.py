"""Clips, schedule and optimizers, with numbers worked by hand."""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import (
    AdamWByKind,
    NormClip,
    RunningNormClip,
    Schedule,
    check_optimizer,
    default_optimizer,
    default_settings,
    state_facts,
)
from steer_lightning.steering import FullFinetune, LoRA, LowRankVectors, Steering, SteeringVectors
from steer_lightning.testing import tiny_model
from tests.out_of_memory import run_out

NAN = float("nan")


def test_a_fixed_clip() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert NormClip(2.0)([parameter]).item() == pytest.approx(5.0)
    assert parameter.grad.tolist() == pytest.approx([1.2, 1.6])


def test_the_running_clip_by_hand() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    clip = RunningNormClip(decay=0.5, tail=3.0)

    def clipped(gradient: float) -> float:
        parameter.grad = torch.tensor([gradient])
        assert clip([parameter]).item() == pytest.approx(abs(gradient))
        return parameter.grad.item()

    assert clipped(2.0) == pytest.approx(2.0)  # the first defines the bound: 2
    assert clipped(-1.0) == pytest.approx(-1.0)  # bound 0.5 * 2 + 0.5 * 1 = 1.5
    assert clipped(0.0) == 0.0  # says nothing: bound 1.5
    assert clipped(100.0) == pytest.approx(
        3.0
    )  # counted with 3 * 1.5: bound 0.5 * 1.5 + 0.5 * 4.5 = 3
    assert clip.state_dict()["running"].item() == pytest.approx(3.0)  # resumes with the checkpoint


def test_schedules() -> None:
    def rates(schedule: Schedule, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = schedule.build(optimizer, steps)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    assert rates(Schedule(warmup=0.2), 10) == pytest.approx([0.5] + [1.0] * 9)
    assert rates(Schedule(kind="cosine", warmup=0.0), 4) == pytest.approx(
        [1.0, 0.8535534, 0.5, 0.1464466]
    )
    for warmup in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="warmup"):
            Schedule(warmup=warmup)


@pytest.mark.parametrize("arguments", [{"max_norm": 0.0}, {"max_norm": -1.0}, {"max_norm": NAN}])
def test_clip_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="max_norm"):
        NormClip(**arguments)


def step_once(optimizer: torch.optim.Optimizer, vectors: SteeringVectors) -> torch.Tensor:
    vectors.vectors.pow(2).sum().backward()
    optimizer.step()
    return optimizer.state[vectors.weight]["state1"]


def test_eight_bits_are_eight_bits() -> None:
    vectors = SteeringVectors().shaped(1536, 28)
    optimizer = bnb.optim.AdamW8bit([vectors.weight], lr=1e-3, weight_decay=0.0)
    state = step_once(optimizer, vectors)
    assert state.dtype == torch.uint8
    assert state.numel() == 28 * 1536  # a byte a number
    tables, scales, blocks = 2 * 256 * 4, 4, 28 * 1536 // 256
    size, kinds = state_facts(optimizer)
    assert size == 2 * (28 * 1536 + scales * blocks) + tables
    assert kinds == ["uint8"]
    plain = torch.optim.AdamW([vectors.weight])
    vectors.vectors.pow(2).sum().backward()
    plain.step()
    assert state_facts(plain) == (2 * 4 * 28 * 1536 + 4, ["float32"])  # and the count of steps


def test_each_layer_has_its_own_quantisation_blocks() -> None:
    vectors = SteeringVectors().shaped(896, 24)  # 896 is 3.5 blocks
    assert vectors.weight.shape == (24, 1024)
    vectors.weight.data[0, :896] = 1000.0
    vectors.weight.data[1, :896] = 0.001
    optimizer = bnb.optim.AdamW8bit([vectors.weight], lr=1e-3, weight_decay=0.0, min_8bit_size=0)
    step_once(optimizer, vectors)
    scales = optimizer.state[vectors.weight]["absmax1"].view(24, 4)
    assert (scales[0, :4] > 1).all()
    assert (scales[1, :4] < 1e-3).all()  # a neighbour a million times larger does not reach over
    assert vectors.vectors.shape == (24, 896)
    assert (vectors.weight[:, 896:] == 0).all()


CPU = torch.device("cpu")


def test_silent_32_bits_are_an_error() -> None:
    vectors = SteeringVectors().shaped(192, 4)
    factory = partial(bnb.optim.AdamW8bit, lr=1e-3)
    with pytest.raises(ConfigError, match=r"min_8bit_size = 4096.*1024 elements.*min_8bit_size: 0"):
        check_optimizer(factory, vectors, CPU)
    assert step_once(factory([vectors.weight]), vectors).dtype == torch.float32  # what would be
    before = vectors.weight.clone()
    check_optimizer(partial(bnb.optim.AdamW8bit, min_8bit_size=0), vectors, CPU)
    check_optimizer(torch.optim.AdamW, vectors, CPU)
    assert torch.equal(vectors.weight, before), "the trial step is taken on a copy"


class NoKernel(torch.optim.SGD):
    def step(self, closure=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError("8-bit update is not implemented for this device")


def test_an_optimizer_without_a_kernel_is_named_with_the_alternative() -> None:
    vectors = SteeringVectors().shaped(64, 2)
    with pytest.raises(ConfigError, match=r"NoKernel.*take a step on cpu.*not implemented.*AdamW"):
        check_optimizer(partial(NoKernel, lr=1.0), vectors, CPU)
    # one of bitsandbytes' own that can't step on a CPU
    with pytest.raises(ConfigError, match=r"AdEMAMix32bit.*take a step on cpu.*torch.optim.AdamW"):
        check_optimizer(bnb.optim.AdEMAMix32bit, vectors, CPU)


def test_the_rate_is_that_of_the_kind() -> None:
    rates = {"SteeringVectors": 0.25, "LowRankVectors": 0.5}
    weight = nn.Parameter(torch.zeros(3))
    optimizer = AdamWByKind([weight], kind="LowRankVectors", rates=rates, weight_decay=0.0)
    weight.grad = torch.tensor([1.0, -100.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 0.5, 0.0]))
    make = partial(AdamWByKind, rates=rates, weight_decay=0.0)
    with pytest.raises(ConfigError, match=r"kind = 'LoRA'.*SteeringVectors, LowRankVectors"):
        make([weight], kind="LoRA")
    vectors = SteeringVectors().shaped(width=4, num_layers=2)
    check_optimizer(partial(make, kind="SteeringVectors"), vectors, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"'LowRankVectors'.*model\.steering = SteeringVectors"):
        check_optimizer(partial(make, kind="LowRankVectors"), vectors, torch.device("cpu"))
    mixed = LowRankVectors(rank=1).shaped(width=4, num_layers=2)
    check_optimizer(partial(make, kind="LowRankVectors"), mixed, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"init_args\.kind = 'LoRA'"):
        check_optimizer(partial(make, kind="LoRA"), mixed, torch.device("cpu"))


def test_an_8_bit_optimizer_that_would_keep_32_bits_is_refused() -> None:
    steering = FullFinetune()
    steering.build(tiny_model("qwen2"))
    factory = partial(bnb.optim.AdamW8bit, lr=1e-3)
    with pytest.raises(ConfigError, match=r"min_8bit_size = 4096.*16 el.*steering = FullFinetune"):
        check_optimizer(factory, steering, torch.device("cpu"))
    check_optimizer(partial(factory, min_8bit_size=0), steering, torch.device("cpu"))


def no_kernel(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("no kernel")


def test_an_optimizer_that_runs_out_of_memory_in_its_check_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steering = SteeringVectors().shaped(32, 3)
    monkeypatch.setattr(torch.optim.AdamW, "step", run_out)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))
    monkeypatch.setattr(torch.optim.AdamW, "step", no_kernel)
    with pytest.raises(ValueError, match="take a step on cpu"):
        check_optimizer(torch.optim.AdamW, steering, torch.device("cpu"))


def test_the_default_optimizer_is_as_a_configuration_spells_it_out() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    spelled_out = default_settings()
    made = resolve_name(spelled_out["class_path"])([parameter], **spelled_out["init_args"])
    default = default_optimizer([parameter])
    assert type(made) is type(default)
    assert made.defaults == default.defaults
    assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.1, 0.0)


def test_rates_that_are_meant_for_something_else(caplog: pytest.LogCaptureFixture) -> None:
    cpu, adamw = torch.device("cpu"), torch.optim.AdamW

    def told(steering: Steering, factory: Any = default_optimizer) -> str:
        steering.build(tiny_model())
        caplog.clear()
        check_optimizer(factory, steering, cpu)
        return caplog.text

    assert told(SteeringVectors()) == ""
    for scale in ("rms", "none"):
        same = told(SteeringVectors(scale=scale), partial(adamw, lr=0.1))
        assert "lr = 0.1 is the default, which is for vectors with scale: kl" in same
    assert told(SteeringVectors(scale="rms"), partial(adamw, lr=0.09)) == ""
    assert told(SteeringVectors(), partial(torch.optim.SGD, lr=1e-3)) == ""
    assert told(LoRA(), partial(adamw, lr=1e-3)) == ""
    assert "lr = 0.001 is low for vectors with scale: kl" in told(SteeringVectors(), adamw)
    assert "is low for vectors" in told(SteeringVectors(), partial(torch.optim.Adam, lr=2e-4))
    for scale in ("rms", "none"):
        with pytest.raises(ConfigError, match=f"lr = 0.1: is the default.*not for {scale}"):
            told(SteeringVectors(scale=scale))
    for kind in (LoRA(), FullFinetune()):
        with pytest.raises(ConfigError, match=r"lr = 0.1: .*breaks (LoRA|FullFinetune)"):
            told(kind)
    with pytest.raises(ConfigError, match="breaks LoRA"):
        told(LoRA(), partial(adamw, lr=0.2))
