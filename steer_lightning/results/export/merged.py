"""The format `transformers`: a stock Llama whose `down_proj.bias` tensors are the vectors.

The shards of the base are copied unchanged and a shard of biases is added, so only the biases need
memory. If the base already has such biases, the shards that contain them are rewritten one at a
time.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import LlamaConfig

from steer_lightning.errors import ConfigError
from steer_lightning.results.export.base import CARRIED, INDEX, KEY, Base, weight_files
from steer_lightning.results.export.compare import read_differently
from steer_lightning.steering import SteeringVectors

SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings"),
    *("initializer_range", "rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "tie_word_embeddings", "rope_parameters", "attention_dropout"),
)
"""Settings that have the same name in the configurations of Llama, Qwen2 and Mistral."""

DOWN = "mlp.down_proj"
MLP = ("mlp.gate_proj", "mlp.up_proj", DOWN)
ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkvo")

Tensors = dict[str, torch.Tensor]


def write_merged(base: Base, vectors: SteeringVectors, folder: Path) -> None:
    """Writes the checkpoint.

    Args:
        base: Base model of the Llama form.
        vectors: Vectors in the scale of the stream.
        folder: Empty folder for the checkpoint.

    Raises:
        ConfigError: If the weights of the base are missing, damaged, or not named like a Llama's.
    """
    files = weight_files(base.folder)
    biases = make_biases(vectors, files)
    config = config_as_llama(base.config, has_attention_bias(files))
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _carry_over(base, folder)
    _write_shards(files, biases, folder)


def _carry_over(base: Base, folder: Path) -> None:
    """Copies the tokenizer, generation settings and licence unchanged."""
    for pattern in CARRIED:
        for path in base.folder.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    named = (folder / "tokenizer_config.json").is_file()
    if named and read_differently(base.tokenizer(), folder) is not None:
        # the saved files name the tokenizer's class, so that it does not depend on the model type
        base.tokenizer().save_pretrained(folder)


def config_as_llama(config: Any, attention_bias: bool) -> dict[str, Any]:
    """Returns the configuration of the same model as a `LlamaForCausalLM` with MLP biases.

    Args:
        config: Configuration of a Llama, Qwen2 or Mistral with full attention.
        attention_bias: Whether queries, keys and values have biases.
    """
    head_dim = getattr(config, "head_dim", None)
    llama = LlamaConfig(
        **{name: getattr(config, name) for name in SETTINGS},
        head_dim=head_dim or config.hidden_size // config.num_attention_heads,
        attention_bias=attention_bias,
        mlp_bias=True,
        architectures=["LlamaForCausalLM"],
        dtype=config.dtype,
    )
    found: dict[str, Any] = json.loads(llama.to_json_string(use_diff=False))
    # engines built on transformers 4 read these names, and silently use a default rope_theta
    rope = dict(found["rope_parameters"])
    found["rope_theta"] = rope.pop("rope_theta")
    found["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return {k: v for k, v in found.items() if k not in ("id2label", "label2id", "_name_or_path")}


def make_biases(vectors: SteeringVectors, files: dict[str, Path]) -> Tensors:
    """Makes all biases of the merged model that the base lacks or that the vectors change.

    Args:
        vectors: Vectors in the scale of the stream.
        files: File of each tensor of the base.

    Returns:
        The biases by name, in the dtype of the base's weights: `down_proj.bias` is the base's own
        bias plus the vector, all others are zero.
    """
    plain = dict(zip(vectors.layers, vectors.vectors.detach(), strict=True))
    parts = (*MLP, *ATTENTION) if has_attention_bias(files) else MLP
    found: Tensors = {}
    for layer in range(vectors.num_layers):
        for part in parts:
            place = f"model.layers.{layer}.{part}"
            bias = f"{place}.bias"
            vector = plain.get(layer) if part == DOWN else None
            if vector is not None:
                own = read_tensor(files, bias) if bias in files else _no_bias(place, files)
                found[bias] = (own.float() + vector).to(own.dtype)
            elif bias not in files:
                found[bias] = _no_bias(place, files)
    return found


def has_attention_bias(files: dict[str, Path]) -> bool:
    """Tells whether the queries, keys and values of a checkpoint have biases."""
    return "model.layers.0.self_attn.q_proj.bias" in files


def _no_bias(place: str, files: dict[str, Path]) -> torch.Tensor:
    """Returns zeros in the dtype of a linear layer's weights, one for each output."""
    name = f"{place}.weight"
    if name not in files:
        raise ConfigError(
            KEY,
            str(next(iter(files.values())).parent),
            rule=f"its checkpoint has no {name}",
            why="This is how the weights of a Llama are named",
            fix="Save the base once with transformers: from_pretrained(...).save_pretrained(...)",
        )
    with safe_open(files[name], framework="pt") as file:
        part = file.get_slice(name)
        return torch.zeros(part.get_shape()[0], dtype=part[:1, :1].dtype)


def read_tensor(files: dict[str, Path], name: str) -> torch.Tensor:
    """Reads a tensor of a checkpoint from its file."""
    with safe_open(files[name], framework="pt") as file:
        found: torch.Tensor = file.get_tensor(name)
    return found


def down_bias(layer: int) -> str:
    """Returns the name of the bias that holds the vector of a layer."""
    return f"model.layers.{layer}.{DOWN}.bias"


def _write_shards(files: dict[str, Path], biases: Tensors, folder: Path) -> None:
    """Copies the shards of the base, and adds a shard of biases and an index of all shards."""
    shards = sorted(set(files.values()))
    weight_map: dict[str, str] = {}
    for number, source in enumerate(tqdm(shards, desc="copying", unit="shard"), start=1):
        target = folder / f"model-{number:05d}-of-{len(shards) + 1:05d}.safetensors"
        names = {name for name, path in files.items() if path == source}
        _copy_shard(source, target, names & set(biases))
        weight_map |= dict.fromkeys(names - set(biases), target.name)
    last = folder / f"model-{len(shards) + 1:05d}-of-{len(shards) + 1:05d}.safetensors"
    save_file(biases, last, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(biases, last.name)
    total = sum(_tensor_bytes(path) for path in folder.glob("model-*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy_shard(source: Path, target: Path, replaced: set[str]) -> None:
    """Copies a shard unchanged, except for tensors that the shard of biases replaces."""
    if not replaced:
        shutil.copyfile(source, target)
        return
    with safe_open(source, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if name not in replaced}  # noqa: SIM118
        save_file(kept, target, metadata=file.metadata())


def _tensor_bytes(path: Path) -> int:
    """Returns the size of a safetensors file without its header, in bytes."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
