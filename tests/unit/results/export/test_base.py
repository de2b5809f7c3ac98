"""A base that is unusable is told in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steer_lightning import ConfigError, export_vectors
from steer_lightning.testing import save_tiny
from tests.unit.results.export.helpers import make_vectors, save_base


def test_a_base_that_is_unusable_is_told_in_words(tmp_path: Path) -> None:
    base = Path(save_base(tmp_path / "base"))
    make_vectors(tmp_path / "v.safetensors", str(base))

    def refused(match: str, **options: Any) -> None:
        options = {"to": "transformers", "output": tmp_path / "out", **options}
        with pytest.raises(ConfigError, match=match):
            export_vectors(tmp_path / "v.safetensors", **options)
        assert not (tmp_path / "out").exists()

    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:100])
    refused("weights are damaged")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused("only pytorch_model.bin.*save_pretrained")
    tensors = {"layers.0.mlp.gate_proj.weight": torch.zeros(2, 2)}
    save_file(tensors, base / "model.safetensors")
    refused("has no model.layers.0.mlp.gate_proj.weight")
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("model-1.safetensors of its index are missing")
    refused("merge_from = './nowhere': there is no such folder", merge_from="./nowhere")
    refused("merge_from = 'org/name': can't be loaded", merge_from="org/name")
    refused("must be one of transformers, peft, gguf, vllm, easysteer", to="onnx")
    save_tiny(tmp_path / "deep", "llama", layers=5)
    refused("has 5 of width 32.*trained on", merge_from=str(tmp_path / "deep"))
