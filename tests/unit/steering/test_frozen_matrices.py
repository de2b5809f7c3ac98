"""Adapters with frozen matrices: moved, scaled, and refused if their folder is damaged."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steer_lightning import ConfigError, attach
from steer_lightning.steering import TinyLoRA, VeRA, load_steering
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS, disturb

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize("kind", [TinyLoRA, partial(VeRA, rank=8)])
def test_matrices_that_a_move_has_made_anew_are_used(kind: Callable[[], TinyLoRA]) -> None:
    model, steering = tiny_model("qwen2"), kind()
    with attach(model, steering):
        disturb(steering)
        expected = model(IDS).logits
        model.to(torch.float64)
        steering.to(torch.float64)
        found = model(IDS).logits
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
        for row, name in enumerate(steering.frozen_names):
            if steering.factor_in in name:
                steering.get_buffer(f"frozen_{row}").zero_()
        assert not torch.allclose(model(IDS).logits, found, atol=1e-4)


def test_nothing_is_computed_from_weights_that_are_not_there() -> None:
    model = tiny_model("qwen2")
    weights = {name: (id(w), w.clone()) for name, w in model.named_parameters()}
    tiny = TinyLoRA()
    tiny.build(model)
    assert not bool(tiny.is_filled)
    assert all(not tensor.any() for tensor in tiny.tensors())
    for name, weight in model.named_parameters():
        assert id(weight) == weights[name][0]
        assert torch.equal(weight, weights[name][1])
    with attach(model, tiny):
        assert bool(tiny.is_filled)
        assert all(tensor.any() for tensor in tiny.tensors()[1:])


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    model, tiny = tiny_model("qwen2"), TinyLoRA()
    with attach(model, tiny), torch.no_grad():
        tiny.numbers[0][0] = float("nan")
    with pytest.raises(ConfigError, match=r"TinyLoRA = 'NaN or infinity': must be finite"):
        tiny.save(tmp_path / "a", base_model="b")
    assert not (tmp_path / "a").exists()


TWO = """
import os, sys
import torch
import torch.distributed as dist
from steer_lightning import attach
from steer_lightning.steering import TinyLoRA
from steer_lightning.testing import tiny_model

rank = 1 if os.fork() == 0 else 0
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
try:
    tiny = TinyLoRA()
    with attach(tiny_model("qwen2"), tiny):
        tiny.numbers[0].data.fill_(rank)
        start = [tensor.clone() for tensor in tiny.tensors()[1:]]
        if rank == 1:  # a node with another sign of the singular vectors
            for row in range(len(start)):
                tiny.get_buffer(f"frozen_{row}").neg_()
        tiny.take_from_first()
        same = [torch.equal(a, b) for a, b in zip(tiny.tensors()[1:], start, strict=True)]
        assert same and all(same)
        assert tiny.numbers[0].tolist() == [rank] * 13, "what is trained is left alone"
    sys.stdout.write("the same\\n")  # in one piece, also if Python does not buffer
finally:
    dist.destroy_process_group()
"""


def test_all_processes_use_the_matrices_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["the same"] * 2, done.stderr


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def settings(folder: Path, **changes: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


V = "base_model.tinylora_v.0"
A, P = (f"base_model.model.model.layers.0.mlp.down_proj.tinylora_{part}" for part in "AP")
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
    (lambda f: (f / WEIGHTS).write_bytes(b"x" * 99), "not a readable safetens"),
    (lambda f: edit(f, lambda t: t.update(x=torch.ones(1))), "plain TinyLoRA, but its .* has 'x'"),
    (lambda f: edit(f, lambda t: t.pop(V)), "must have trained numbers and frozen matrices"),
    (lambda f: settings(f, u="many"), r"no usable adapter_config\.json"),
    (lambda f: settings(f, u=0), r"no usable adapter_config\.json \(model\.steering\.u = 0"),
    (lambda f: settings(f, u=10**14), r"P of shape \(100000000000000, 2, 2\) .* has \(13, 2, 2\)"),
    (lambda f: settings(f, u=float("inf")), r"no usable adapter_config\.json \(cannot convert"),
    (lambda f: settings(f, r=10**9), r"A of shape \(1000000000, any\) by its adapter_config"),
    (lambda f: settings(f, r=3), r"A of shape \(3, any\) by its adapter_config\.json, .* \(2, "),
    (lambda f: settings(f, projection_seed=2**70), r"no usable .*seed = 1180591620717411303424"),
    (lambda f: edit(f, lambda t: t.update({V: torch.ones(3)})), r"v\.0 of shape \(13\) .* \(3,\)"),
    (lambda f: edit(f, lambda t: t.update({P: torch.ones(13, 2)})), r"P of shape \(13, 2, 2\)"),
    (lambda f: settings(f, bias="all"), "plain TinyLoRA, but its adapter_config.json has bias"),
    (lambda f: settings(f, r="2"), "values of unknown types"),
]


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leaves this process 4 GiB of further address space, so that a large allocation fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"r": 10**14}, r"vera_lambda_d of shape \(100000000000000\)"),
        ({"r": 7}, r"lambda_d of shape \(7\) by its adapter_config\.json, but it has \(8,\)"),
        ({"d_initial": 0}, r"no usable adapter_config\.json"),
        ({"projection_prng_key": -(2**62)}, r"no usable adapter_config\.json .*less than 2\*\*62"),
    ],
)
def test_a_folder_of_vera_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    model, vera = tiny_model("qwen2"), VeRA(rank=8)
    with attach(model, vera):
        pass
    vera.save(tmp_path, base_model="b")
    settings(tmp_path, **change)
    with pytest.raises(ConfigError, match=told):
        load_steering(tmp_path)


@pytest.mark.usefixtures("little_memory")
def test_tensors_without_numbers_do_not_pass_for_large_ones(tmp_path: Path) -> None:
    model, vera = tiny_model("qwen2"), VeRA(rank=8)
    with attach(model, vera):
        pass
    vera.save(tmp_path, base_model="b")
    huge = {"vera_A": (10**14, 0), "vera_B": (0, 10**14)}
    settings(tmp_path, r=10**14)
    edit(tmp_path, lambda t: [t.pop(name) for name in list(t) if "lambda_b" not in name])
    edit(tmp_path, lambda t: t.update({f"base_model.{k}": torch.zeros(s) for k, s in huge.items()}))
    with pytest.raises(ConfigError, match=r"vera_A of shape \(100000000000000, any\)"):
        load_steering(tmp_path)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("damage", "told"), DAMAGE)
def test_a_damaged_folder_is_refused_in_words(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    model, tiny = tiny_model("qwen2"), TinyLoRA()
    with attach(model, tiny):
        pass
    tiny.save(tmp_path, base_model="b")
    load_steering(tmp_path)
    damage(tmp_path)
    with pytest.raises(ConfigError, match=told):
        load_steering(tmp_path)


def test_numbers_of_other_layers_do_not_fit(tmp_path: Path) -> None:
    model, tiny = tiny_model("qwen2"), TinyLoRA()
    with attach(model, tiny):
        pass
    tiny.save(tmp_path, base_model="b")
    edit(tmp_path, lambda t: t.update({P: torch.ones(13, 2, 2), A: torch.ones(2, 7)}))
    with pytest.raises(ConfigError, match=r"TinyLoRA = 'b': does not fit Qwen2.*tinylora_A"):
        attach(model, tmp_path)
    again = TinyLoRA()
    again.build(model)
    with pytest.raises(ConfigError, match=r"TinyLoRA = '': does not fit"):
        again.build(tiny_model("qwen2", width=64))
