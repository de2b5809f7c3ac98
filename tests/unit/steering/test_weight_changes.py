"""Changes of weights: applied as the model runs, never written into it, and refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.steering import BitFit, VectorFit
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS, disturb


def built(model: torch.nn.Module) -> BitFit:
    steering = BitFit()
    steering.build(model)
    disturb(steering)
    return steering


def test_a_weight_is_w_plus_scale_times_d_while_the_model_runs() -> None:
    model = tiny_model("qwen2")
    steering, module = built(model), model.model.layers[1].self_attn.q_proj
    name = "model.layers.1.self_attn.q_proj.bias"
    own = dict(model.named_parameters())[name].detach().clone()
    change = dict(zip(steering.names, steering.changes, strict=True))[name]
    seen = []
    module.register_forward_hook(lambda *_: seen.append(module.bias.detach().clone()))
    with attach(model, steering) as attachment:
        model(IDS)
        attachment.scale = -2.0
        model(IDS)
        assert torch.equal(dict(model.named_parameters())[name], own), (
            "the parameter itself is as it was"
        )
    model(IDS)
    torch.testing.assert_close(
        torch.stack(seen), torch.stack([own + change, own - 2 * change, own])
    )


def test_a_constant_block_computes_the_changes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2")
    steering, calls = built(model), []
    change = BitFit.change
    monkeypatch.setattr(BitFit, "change", lambda *args: calls.append(1) or change(*args))
    with attach(model, steering) as attachment:
        for _ in range(2):
            model(IDS)
        assert len(calls) == 2 * len(steering.names), "once a pass"
        calls.clear()
        with torch.no_grad(), attachment.constant():
            for _ in range(3):
                model(IDS)
        assert len(calls) == len(steering.names)


def test_the_norm_is_that_of_all_changes_together() -> None:
    steering = BitFit()
    steering.build(tiny_model("qwen2"))
    assert steering.metrics() == {"norm": 0.0}
    steering.changes[0].data[0], steering.changes[-1].data[1] = 3.0, -4.0
    assert steering.metrics() == {"norm": 5.0}


def test_the_checksum_is_that_of_names_and_shapes() -> None:
    ((_, one),), ((_, other),) = (built(tiny_model("qwen2")).facts().items() for _ in range(2))
    assert one == other, "whatever the numbers are"
    wide = BitFit()
    wide.build(tiny_model("qwen2", width=64))
    ((_, third),) = wide.facts().items()
    assert third != one


def test_files_of_another_kind_or_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "changes.safetensors"
    built(tiny_model("qwen2")).save(path, base_model="b")
    with pytest.raises(ConfigError, match="must contain VectorFit, not 'BitFit'"):
        VectorFit().load(path)
    loaded = BitFit()
    loaded.load(path)
    with pytest.raises(ConfigError, match=r"not fit Qwen2ForCausalLM: .*missing, unknown"):
        loaded.build(tiny_model("qwen2", width=64))
    with pytest.raises(ConfigError, match=r"init_from = .*there is no such file"):
        BitFit(init_from=str(tmp_path / "none"))
