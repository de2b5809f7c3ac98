"""The format `vllm`: the merged checkpoint, checked for vLLM's Llama, and a command to serve it.

vLLM (`model_executor/models/llama.py`) expects biases according to `mlp_bias` and `attention_bias`,
and fails on a tensor that it has no place for.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.export.base import weight_files

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TENSOR = re.compile(
    r"model\.(embed_tokens\.weight|norm\.weight|layers\.\d+\.(input_layernorm\.weight|"
    r"post_attention_layernorm\.weight|(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.(weight|bias)|"
    r"self_attn\.rotary_emb\.inv_freq))|lm_head\.weight"
)


def serve_command(folder: Path, dtype: str) -> str:
    """Returns the command that serves a merged checkpoint with vLLM.

    Args:
        folder: Folder of the checkpoint.
        dtype: Dtype of the weights; without it, vLLM would turn float32 into float16.
    """
    words = ["vllm", "serve", str(folder), "--served-model-name", folder.name, "--dtype", dtype]
    return shlex.join(words)


def check_for_vllm(folder: Path) -> None:
    """Raises a ConfigError if vLLM's Llama would not read a merged checkpoint as intended.

    Args:
        folder: Folder of the checkpoint.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    names = set(weight_files(folder))
    layers = [f"model.layers.{layer}" for layer in range(config["num_hidden_layers"])]
    biases = {f"{layer}.mlp.{part}.bias" for layer in layers for part in MLP}
    attention = {f"{layer}.self_attn.{part}.bias" for layer in layers for part in ATTENTION}
    if config["attention_bias"]:
        biases |= attention
    rope = config["rope_parameters"]
    rules = {
        "architectures must be LlamaForCausalLM": config["architectures"] == ["LlamaForCausalLM"],
        "mlp_bias must be true": config["mlp_bias"] is True,
        "hidden_act must be silu, the only one of vLLM's Llama": config["hidden_act"] == "silu",
        "rope_theta must equal that of rope_parameters": config["rope_theta"] == rope["rope_theta"],
        "attention_bias must be true if such biases exist": config["attention_bias"]
        or not names & attention,
        f"biases are missing: {sorted(biases - names)[:3]}": biases <= names,
        "vLLM has no place for some tensors": all(TENSOR.fullmatch(name) for name in names),
        "neither sliding windows nor quantisation are allowed": not (
            config.get("sliding_window") or config.get("quantization_config")
        ),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ConfigError("to", "vllm", rule="; ".join(broken), why="vLLM reads these fields")
