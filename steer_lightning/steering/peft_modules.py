"""What all kinds that run in PEFT's own modules share: how these get into a model and out of it."""

from __future__ import annotations

import json
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import nn
from transformers.pytorch_utils import Conv1D

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import Steering
from steer_lightning.steering.layers import find_layers, parse_layers
from steer_lightning.steering.result_file import refusal
from steer_lightning.system.extras import install_command
from steer_lightning.system.import_noise import quiet_imports
from steer_lightning.system.printable import one_line
from steer_lightning.system.whole_files import write_bytes

ADAPTER = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Targets = list[str] | Literal["all-linear"]


class PeftModules(Steering):
    """Base class of kinds that PEFT computes, in modules that it puts around linear layers.

    The result is a folder in PEFT's format.

    Args:
        rank: Rank r of the change of each layer.
        target_modules: Names of linear layers, such as `[down_proj]`, or `all-linear` for all
            except the output layer.
        layers: Decoder layers to change: `all`, a range such as `"8-15"`, or a list of 0-based
            indices.
        init_from: Folder in PEFT's format to start from, with the same settings; null starts from
            zero.
        layers_path: Dotted path of the model's decoder layers; needed only if they are not found
            automatically.

    Attributes:
        mark: Text in the names of all tensors that PEFT adds to a model.

    Raises:
        ConfigError: If PEFT is missing or a setting is out of range.
    """

    mark: str
    beside_base = False

    def __init__(
        self,
        rank: int,
        target_modules: Targets = "all-linear",
        layers: str | list[int] = "all",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        import_peft(type(self).__name__)
        if rank < 1:
            raise ConfigError("model.steering.rank", rank, rule="must be at least 1")
        parse_layers(layers)
        if init_from is not None and not (Path(init_from) / CONFIG).is_file():
            rule = f"there is no such folder with an {CONFIG}"
            raise ConfigError("model.steering.init_from", init_from, rule=rule)
        self.rank, self.target_modules, self.chosen = rank, target_modules, layers
        self.init_from, self.layers_path = init_from, layers_path
        self.metadata = {}
        self.names: list[str] = []

    # ---- defined by each kind

    @abstractmethod
    def settings(self) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """Returns PEFT's classes of model and configuration, and settings for the latter."""

    # ---- PEFT's modules

    def inject(self, model: nn.Module) -> Any:
        """Puts PEFT's modules around the model's own; `take_out` undoes it.

        Returns:
            PEFT's model.

        Raises:
            ConfigError: If the model has no such layers.
        """
        blocks = find_layers(model, self.layers_path)
        layers = parse_layers(self.chosen, len(blocks))
        linear = (name for i in layers for name, m in blocks[i].named_modules() if is_linear(m))
        config = self.peft_config(layers, linear)
        try:
            return self.settings()[0](model, config, ADAPTER, low_cpu_mem_usage=True)
        except ValueError as error:
            raise ConfigError(
                "model.steering.target_modules",
                self.target_modules,
                rule=f"model.base, a {type(model).__name__}, has no such linear layers",
                why=" ".join(str(error).split()).rstrip("."),
            ) from error

    def peft_config(self, layers: tuple[int, ...], linear: Iterable[str]) -> Any:
        """Makes PEFT's configuration; `linear` has the names of all linear layers in `layers`."""
        modules, chosen = self.target_modules, None if self.chosen == "all" else list(layers)
        # PEFT accepts `all-linear` only for whole models
        if modules == "all-linear" and chosen is not None:
            modules = sorted({name.rpartition(".")[2] for name in linear})
        _, config, settings = self.settings()
        return config(
            task_type="CAUSAL_LM",
            r=self.rank,
            target_modules=modules,
            layers_to_transform=chosen,
            **settings,
        )

    @property
    def first_layer(self) -> int:
        """Index of the first chosen layer; see `Steering.first_layer`."""
        return min(parse_layers(self.chosen), default=0)

    def base_name(self, name: str) -> str | None:
        """Returns a tensor's name in the base; see `Steering.base_name`."""
        return None if self.mark in name else name.replace(".base_layer.", ".")

    def refuse_model(self, model: nn.Module, odd: str) -> ConfigError:
        """Creates the error for a model whose layers are not those of the numbers."""
        return ConfigError(
            type(self).__name__,
            self.metadata.get("base_model", ""),
            rule=f"does not fit {type(model).__name__}, for instance at {one_line(odd)}",
            fix="Use it with the model and the settings with which it was trained",
        )

    def write_folder(
        self,
        path: Path,
        tensors: Mapping[str, torch.Tensor],
        linear: Iterable[str],
        *,
        base_model: str,
        revision: str | None,
        step: int | None,
    ) -> None:
        """Writes a folder in PEFT's format: its configuration, and tensors by PEFT's names."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ConfigError(type(self).__name__, "NaN or infinity", rule="must be finite")
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with tempfile.TemporaryDirectory() as folder:
            config = self.peft_config(parse_layers(self.chosen), linear)
            config.base_model_name_or_path, config.revision = base_model, revision
            config.inference_mode = True
            config.save_pretrained(folder)
            text = (Path(folder) / CONFIG).read_bytes()
        told = {"format": "pt", "step": "" if step is None else str(step), **self.base_facts}
        write_bytes(path / WEIGHTS, save(plain, told))
        write_bytes(path / CONFIG, text)


def is_linear(module: nn.Module) -> bool:
    """Returns whether a module is a linear layer in the sense of PEFT's `all-linear`."""
    return isinstance(module, (nn.Linear, Conv1D))


def take_out(tuner: Any) -> None:
    """Removes PEFT's modules from a model, and the configuration that PEFT leaves there."""
    model = tuner.unload()
    vars(model).pop("peft_config", None)


@contextmanager
def without_values(model: nn.Module) -> Iterator[None]:
    """Hides the weights of linear layers, so that PEFT computes nothing from them in the block."""
    linear = [module for module in model.modules() if is_linear(module)]
    hidden = [(module, module.get_parameter("weight")) for module in linear]
    for module, weight in hidden:
        module.weight = nn.Parameter(weight.detach().to("meta"), requires_grad=False)
    try:
        yield
    finally:
        for module, weight in hidden:
            module.weight = weight


def read_config(path: Path) -> dict[str, Any]:
    """Reads the configuration of a folder in PEFT's format, and checks what all kinds share.

    Args:
        path: Folder.

    Returns:
        The configuration, in which `layers_to_transform` is `all` or a list of indices, and
        `base_model_name_or_path` is one line of text.

    Raises:
        ConfigError: If the configuration is damaged.
    """
    try:
        config: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        rank, modules, kind = (config[key] for key in ("r", "target_modules", "peft_type"))
        layers, base = config.get("layers_to_transform"), config.get("base_model_name_or_path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refusal(path, f"has no usable {CONFIG} ({one_line(error)})") from error
    layers = [layers] if type(layers) is int else layers
    known = type(rank) is int and isinstance(kind, str)
    known = known and (isinstance(modules, str) or is_list(modules, str))
    known = known and (layers is None or is_list(layers, int)) and isinstance(base or "", str)
    if not known:
        raise refusal(path, f"has values of unknown types in its {CONFIG}")
    chosen = "all" if layers is None else layers
    name = one_line(base or "")
    return {**config, "layers_to_transform": chosen, "base_model_name_or_path": name}


def check_plain(path: Path, config: Mapping[str, Any], kind: str, odd: Iterable[str]) -> None:
    """Raises a ConfigError if a folder has settings with which a kind computes something else.

    Args:
        path: Folder.
        config: Its configuration.
        kind: Name of the kind.
        odd: Settings that must not be set.
    """
    found = [key for key in odd if config.get(key) not in (None, "none", False, {}, [], "")]
    if found:
        raise refusal(path, f"must be plain {kind}, but its {CONFIG} has {', '.join(found)}")


def is_list(value: object, kind: type) -> bool:
    """Returns whether a value of a file is a list with elements of exactly one type."""
    return isinstance(value, list) and all(type(item) is kind for item in value)


def check_seed(seed: int) -> None:
    """Raises a ConfigError if a seed, to which PEFT adds the layer's index, is too large."""
    if abs(seed) >= 2**62:
        rule = "must be greater than -2**62 and less than 2**62"
        raise ConfigError("model.steering.seed", seed, rule=rule)


def import_peft(kind: str) -> Any:
    """Returns the package PEFT; raises a ConfigError if it is missing."""
    try:
        with quiet_imports():
            import peft
    except ModuleNotFoundError as error:
        raise ConfigError(
            "model.steering", kind, rule="needs the package peft", fix=install_command("lora")
        ) from error
    return peft
