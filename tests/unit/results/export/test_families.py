"""What an architecture can't hold is refused, and for a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from steer_lightning import ConfigError, export_vectors
from steer_lightning.results.export.families import NORM_AFTER_MLP
from steer_lightning.steering import attach, find_layers
from steer_lightning.testing import VOCABULARY
from tests.unit.results.export.helpers import LAYERS, WIDTH, edit_config, make_config, make_vectors


@pytest.mark.parametrize(
    ("kind", "to", "changes", "told"),
    [
        ("gemma3", "transformers", {}, ["normalises what the MLP adds", "--to easysteer or"]),
        ("gemma2", "peft", {}, ["normalises what the MLP adds", "--to easysteer or --to gguf"]),
        ("olmo2", "vllm", {}, ["normalises what the MLP adds"]),
        ("olmo3", "peft", {}, ["normalises what the MLP adds"]),
        ("glm4", "peft", {}, ["normalises what the MLP adds"]),
        ("qwen3", "transformers", {}, ["normalises queries and keys", "--to peft or"]),
        ("qwen3", "vllm", {}, ["normalises queries and keys", "--to peft or"]),
        ("gpt2", "transformers", {}, ["can't be written as those of a Llama", "--to peft or"]),
        ("granite", "peft", {}, ["residual_multiplier"]),
        ("opt", "peft", {"do_layer_norm_before": False}, ["normalises what the MLP adds"]),
        ("mistral", "transformers", {"sliding_window": 64}, ["a sliding window of 64 tokens"]),
        (
            "qwen2",
            "transformers",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            ["a sliding window of 8 tokens", "--to peft or"],
        ),
        ("llama", "vllm", {"quantization_config": {"quant_method": "fp8"}}, ["are quantised"]),
    ],
)
def test_what_can_not_be_exact_is_refused_before_anything_loads(
    kind: str, to: str, changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    make_config(kind).save_pretrained(tmp_path / "base")
    edit_config(tmp_path / "base", **changes)
    make_vectors(tmp_path / "v.safetensors", str(tmp_path / "base"))
    with pytest.raises(ConfigError, match="can't hold vectors of") as refused:
        export_vectors(tmp_path / "v.safetensors", to=to, output=tmp_path / "out")
    for text in told:
        assert text in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "v.safetensors"]


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "olmo2", "olmo3", "glm4"])
def test_a_norm_after_the_mlp_really_makes_a_bias_another_thing(kind: str) -> None:
    assert kind in NORM_AFTER_MLP
    model = tf.AutoModelForCausalLM.from_config(make_config(kind)).eval()
    ids, vectors = torch.randint(3, VOCABULARY, (2, 9)), torch.randn(LAYERS, WIDTH)
    with torch.no_grad():
        with attach(model, vectors):
            steered = model(ids).logits
        for layer, vector in zip(find_layers(model), vectors, strict=True):
            layer.mlp.down_proj.bias = torch.nn.Parameter(vector.clone())
        assert (model(ids).logits - steered).abs().max() > 0.01
