"""A model that keeps one layer in memory at a time, and reads each one from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from steer_lightning.model.rotary import compute_rotary
from steer_lightning.results.export.base import device, weight_files

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


def open_streamed(folder: Path, dtype: torch.dtype) -> Any:
    """Opens a model of the Llama form that holds only the weights of the layer at work.

    The model is slow, since each forward pass reads the whole checkpoint. But a model that does not
    fit into memory can't be compared in any other way.

    Args:
        folder: Folder of a safetensors checkpoint whose tensors are named as in the model: Llama,
            Qwen2 or Mistral.
        dtype: Dtype to which the weights are converted.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    compute_rotary(model, device())
    files = weight_files(folder)
    layers = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers)]
    for place in (EMBEDDING, *layers, "model.norm", HEAD):
        source = EMBEDDING if place == HEAD and config.tie_word_embeddings else place
        module = model.get_submodule(place)
        read = partial(_read, files, source, [name for name, _ in module.named_parameters()], dtype)
        module.register_forward_pre_hook(partial(_fill, read))
        module.register_forward_hook(_empty)
    return model.requires_grad_(False)


def _read(
    files: dict[str, Path], place: str, names: list[str], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    found = {}
    for path in {files[f"{place}.{name}"] for name in names}:
        with safe_open(path, framework="pt", device=device()) as file:
            for name in names:
                if files[f"{place}.{name}"] == path:
                    found[name] = file.get_tensor(f"{place}.{name}").to(dtype)
    return found


def _fill(read: Callable[[], dict[str, torch.Tensor]], module: nn.Module, args: object) -> None:
    module.load_state_dict(read(), assign=True)


def _empty(module: nn.Module, args: object, output: object) -> None:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            bare = nn.Parameter(parameter.to("meta"), requires_grad=False)
            part.register_parameter(name, bare)
