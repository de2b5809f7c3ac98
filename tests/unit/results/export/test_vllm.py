"""What vLLM would read otherwise is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steer_lightning import ConfigError, export_vectors
from steer_lightning.results.export.vllm import check_for_vllm
from tests.unit.results.export.helpers import edit_config, make_vectors, save_base


def test_vllm_is_given_nothing_that_it_reads_otherwise(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "qwen2")
    make_vectors(tmp_path / "v.safetensors", base)
    out = tmp_path / "out"
    export_vectors(tmp_path / "v.safetensors", to="vllm", output=out, verify=False)
    good = (out / "config.json").read_text()
    for changes, told in [
        ({"rope_theta": 1.0}, "rope_theta must equal"),
        ({"mlp_bias": False}, "mlp_bias must be true"),
        ({"attention_bias": False}, "attention_bias must be true"),
        ({"hidden_act": "gelu"}, "hidden_act must be silu"),
        ({"num_hidden_layers": 4}, "biases are missing"),
    ]:
        edit_config(out, **changes)
        with pytest.raises(ConfigError, match=told):
            check_for_vllm(out)
        (out / "config.json").write_text(good)
    check_for_vllm(out)
    shutil.copy(out / "model-00002-of-00002.safetensors", out / "model.safetensors")
    (out / "model.safetensors.index.json").unlink()
    save_file({"model.layers.0.mlp.gate.weight": torch.zeros(1)}, out / "model.safetensors")
    with pytest.raises(ConfigError, match="no place for some tensors"):
        check_for_vllm(out)
