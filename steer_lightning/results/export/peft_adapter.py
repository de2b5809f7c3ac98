"""The format `peft`: an adapter that adds a bias to the linear layer at the end of decoder layers.

The base stays untouched. BEFT (arXiv 2509.15974) adds a bias to the output of a linear layer. It
supports only `nn.Linear`. So GPT-2, whose layers are `Conv1D`, gets a LoRA of rank 1 whose matrices
are zero and whose bias is the vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.results.export.base import Base
from steer_lightning.results.export.families import bias_home
from steer_lightning.steering import SteeringVectors, find_layers
from steer_lightning.system.extras import install_command
from steer_lightning.system.import_noise import quiet_imports


def require_peft() -> None:
    """Raises a ConfigError if PEFT is missing or too old for BEFT."""
    try:
        with quiet_imports():
            from peft import BeftConfig  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "to",
            "peft",
            rule="needs the package peft, 0.20 or newer",
            fix=install_command("export"),
        ) from error


def write_adapter(base: Base, vectors: SteeringVectors, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, without loading weights.

    Args:
        base: Base model of an architecture in `BIAS_HOMES`.
        vectors: Vectors in the scale of the stream.
        folder: Empty folder for the adapter.
    """
    from peft import BeftConfig, LoraConfig, PeftConfig, get_peft_model

    model, home = base.empty(), bias_home(base)
    layers = find_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    places = [f"{prefix}.{layer}.{home}" for layer in vectors.layers]
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": places}
    options |= {"base_model_name_or_path": base.path, "revision": base.revision}
    linear = isinstance(model.get_submodule(places[0]), nn.Linear)
    config: PeftConfig = BeftConfig(**options)
    if not linear:
        config = LoraConfig(**options, r=1, lora_alpha=1, lora_bias=True, fan_in_fan_out=True)
    with known_warnings():
        adapted = get_peft_model(model, config)
    for place, vector in zip(places, vectors.vectors.detach(), strict=True):
        module = adapted.get_base_model().get_submodule(place)
        (_set_beft if linear else _set_lora)(module, vector)
    with known_warnings():
        adapted.save_pretrained(str(folder), save_embedding_layers=False)


def _set_beft(module: Any, vector: torch.Tensor) -> None:
    module.beft_bias["default"] = nn.Parameter(vector[None].clone())


def _set_lora(module: Any, vector: torch.Tensor) -> None:
    for matrix in (module.lora_A["default"], module.lora_B["default"]):
        matrix.weight = nn.Parameter(torch.zeros(matrix.weight.shape))
    module.lora_B["default"].bias = nn.Parameter(vector.clone())


def load_adapter(model: Any, folder: Path) -> Any:
    """Adds the adapter to the model, as a user does."""
    from peft import PeftModel

    with known_warnings():
        return PeftModel.from_pretrained(model, folder).eval()


@contextmanager
def known_warnings() -> Iterator[None]:
    """Silences PEFT's warnings about bases without biases, and those that do not apply here."""
    with warnings.catch_warnings():
        # the bias of a LoRA is one-dimensional, as it should be
        warnings.filterwarnings("ignore", message="Adapter .* LoRA tensor.s. have invalid shape")
        warnings.filterwarnings("ignore", message="Detected that the base layer has no bias term")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
