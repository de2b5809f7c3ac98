"""LoRA, trained in PEFT's own modules."""

from __future__ import annotations

import json
import math
import re
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import nn
from transformers.pytorch_utils import Conv1D

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import BASE_BITS, Attachment, Steering
from steer_lightning.steering.layers import find_layers, parse_layers
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal
from steer_lightning.system.extras import install_command
from steer_lightning.system.import_noise import quiet_imports
from steer_lightning.system.printable import one_line
from steer_lightning.system.whole_files import write_bytes

ADAPTER = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of the names of a model's modules in PEFT's files."""
MATRIX = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight")
NOT_PLAIN = (
    *("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern"),
    *("modules_to_save", "trainable_token_indices", "target_parameters"),
)
"""Settings of PEFT that make a LoRA compute something else."""


class LoRA(Steering):
    """Adds a low-rank product to linear layers, in PEFT's own modules (arXiv 2106.09685).

    `y <- W x + (alpha / r) B A x`, where A (r, inputs) starts with random numbers, as in PEFT, and
    B (outputs, r) starts at zero. The result is a folder in PEFT's format.

    Args:
        rank: Rank r of the product; the paper's baselines have ranks 4 and 1.
        alpha: Numerator of the factor `alpha / r` on the product; null uses r, so that the factor
            is 1.
        target_modules: Names of linear layers, such as `[down_proj]`, or `all-linear` for all
            except the output layer.
        layers: Decoder layers to change: `all`, a range such as `"8-15"`, or a list of 0-based
            indices.
        init_from: Folder in PEFT's format to start from, with the same settings; null starts from
            zero.
        layers_path: Dotted path of the model's decoder layers; needed only if they are not found
            automatically.

    Attributes:
        names: Names of the steered linear layers in the model.
        down: Matrix A of each layer, float32.
        up: Matrix B of each layer, float32.

    Raises:
        ConfigError: If PEFT is missing or a setting is out of range.
    """

    file_name = "lora_adapter"
    beside_base = False

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        target_modules: list[str] | Literal["all-linear"] = "all-linear",
        layers: str | list[int] = "all",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        _import_peft()
        if rank < 1:
            raise ConfigError("model.steering.rank", rank, rule="must be at least 1")
        parse_layers(layers)
        if init_from is not None and not (Path(init_from) / CONFIG).is_file():
            rule = f"there is no such folder with an {CONFIG}"
            raise ConfigError("model.steering.init_from", init_from, rule=rule)
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.target_modules, self.chosen = target_modules, layers
        self.init_from, self.layers_path = init_from, layers_path
        self.metadata = {}
        self.names: list[str] = []
        self.down, self.up = nn.ParameterList(), nn.ParameterList()

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        tuner, found = self._inject(model)
        shapes = {name: (layer.in_features, layer.out_features) for name, layer in found.items()}
        _take_out(tuner)
        self._check(shapes)
        if self.names:
            self._check_fit(model, shapes)
            return
        self.names = list(shapes)
        for inputs, outputs in shapes.values():
            down = torch.empty(self.rank, inputs)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))  # the same as in PEFT
            self.down.append(nn.Parameter(down))
            self.up.append(nn.Parameter(torch.zeros(outputs, self.rank)))
        if self.init_from is not None:
            start = load_lora(Path(self.init_from))
            start._check_fit(model, shapes)
            with torch.no_grad():
                for row, name in enumerate(self.names):
                    place = start.names.index(name)
                    self.down[row].copy_(start.down[place])
                    self.up[row].copy_(start.up[place])

    def _inject(self, model: nn.Module) -> tuple[Any, dict[str, Any]]:
        """Puts PEFT's modules, still empty, around the model's own; returns them by name."""
        peft = _import_peft()
        blocks = find_layers(model, self.layers_path)
        layers = parse_layers(self.chosen, len(blocks))
        linear = (name for i in layers for name, m in blocks[i].named_modules() if is_linear(m))
        config = self._config(layers, linear)
        try:
            tuner = peft.LoraModel(model, config, ADAPTER, low_cpu_mem_usage=True)
        except ValueError as error:
            raise ConfigError(
                "model.steering.target_modules",
                self.target_modules,
                rule=f"model.base, a {type(model).__name__}, has no such linear layers",
                why=" ".join(str(error).split()).rstrip("."),
            ) from error
        kind = peft.tuners.lora.LoraLayer
        return tuner, {n: m for n, m in model.named_modules() if isinstance(m, kind)}

    def _config(self, layers: tuple[int, ...], linear: Iterable[str]) -> Any:
        """Makes PEFT's configuration; `linear` has the names of all linear layers in `layers`."""
        modules, chosen = self.target_modules, None if self.chosen == "all" else list(layers)
        # PEFT accepts `all-linear` only for whole models
        if modules == "all-linear" and chosen is not None:
            modules = sorted({name.rpartition(".")[2] for name in linear})
        return _import_peft().LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=modules,
            layers_to_transform=chosen,
        )

    def _check(self, shapes: dict[str, tuple[int, int]]) -> None:
        least = min(min(shape) for shape in shapes.values())
        if self.rank > least:
            name = next(name for name, shape in shapes.items() if min(shape) == least)
            raise ConfigError(
                "model.steering.rank",
                self.rank,
                rule=f"must be at most {least}: model.steering.target_modules = "
                f"{self.target_modules!r} has {name} of shape {shapes[name]}",
                why="A larger rank adds nothing",
            )

    def _check_fit(self, model: nn.Module, shapes: dict[str, tuple[int, int]]) -> None:
        ours = {
            name: (down.shape[1], up.shape[0])
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        }
        if ours != shapes:
            odd = sorted(ours.items() ^ shapes.items())[0][0]
            raise ConfigError(
                "LoRA",
                self.metadata.get("base_model", ""),
                rule=f"does not fit {type(model).__name__}, for instance at {one_line(odd)}",
                fix="Use it with the model and the settings with which it was trained",
            )

    # ---- using

    @property
    def first_layer(self) -> int:
        """Index of the first chosen layer; see `Steering.first_layer`."""
        return min(parse_layers(self.chosen), default=0)

    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Puts PEFT's modules into a model; see `Steering.attach`."""
        return InjectedLoRA(model, self, scale)

    def base_name(self, name: str) -> str | None:
        """Returns a tensor's name in the base; see `Steering.base_name`."""
        return None if ".lora_" in name else name.replace(".base_layer.", ".")

    # ---- reporting

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        return f"LoRA of rank {self.rank} on {len(self.names)} linear layers"

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        names = zlib.crc32(repr(self.names).encode())
        return {
            "model.steering.rank": self.rank,
            "model.steering.alpha": self.alpha,
            "model.steering.target_modules (checksum of the layers)": names,
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Returns the norm of all weight changes together."""
        pairs = zip(self.up, self.down, strict=True)
        norms = torch.stack([(up @ down).norm() for up, down in pairs])
        return {"norm": self.alpha / self.rank * norms.norm().item()}

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves a folder that `peft.PeftModel.from_pretrained` and `load_steering` can read."""
        tensors = {}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            for part, weight in (("lora_A", down), ("lora_B", up)):
                if not bool(torch.isfinite(weight).all()):
                    raise ConfigError("LoRA", "NaN or infinity", rule="must be finite")
                tensors[f"{PREFIX}{name}.{part}.weight"] = weight.detach().cpu().contiguous()
        with tempfile.TemporaryDirectory() as folder:
            config = self._config(parse_layers(self.chosen), self.names)
            config.base_model_name_or_path, config.revision = base_model, revision
            config.inference_mode = True
            config.save_pretrained(folder)
            text = (Path(folder) / CONFIG).read_bytes()
        told = {"format": "pt", "step": "" if step is None else str(step), **self.base_facts}
        write_bytes(path / WEIGHTS, save(tensors, told))
        write_bytes(path / CONFIG, text)


class InjectedLoRA(Attachment):
    """Runs PEFT's modules in a model, with the parameters of a `LoRA`."""

    def __init__(self, model: nn.Module, lora: LoRA, scale: float) -> None:
        self._tuner, found = lora._inject(model)
        self._layers = [found[name] for name in lora.names]
        self._factor = lora.alpha / lora.rank
        for layer, down, up in zip(self._layers, lora.down, lora.up, strict=True):
            layer.lora_A[ADAPTER].weight = down
            layer.lora_B[ADAPTER].weight = up
        self.scale = scale

    @property
    def scale(self) -> float:
        """Factor on all products."""
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        self._scale = scale
        for layer in self._layers:
            layer.scaling[ADAPTER] = self._factor * scale

    def remove(self) -> None:
        """Removes PEFT's modules; see `Attachment.remove`."""
        if self._tuner is not None:
            _take_out(self._tuner)
            self._tuner = None


def is_linear(module: nn.Module) -> bool:
    """Returns whether a module is a linear layer in the sense of PEFT's `all-linear`."""
    return isinstance(module, (nn.Linear, Conv1D))


def _take_out(tuner: Any) -> None:
    """Removes PEFT's modules from a model, and the configuration that PEFT leaves there."""
    model = tuner.unload()
    vars(model).pop("peft_config", None)


def load_lora(path: Path) -> LoRA:
    """Loads a folder in PEFT's format.

    Raises:
        ConfigError: If the folder is damaged or contains something other than plain LoRA.
    """
    lora, base = _read_config(path)
    if not (path / WEIGHTS).is_file():
        raise refusal(path, f"has no {WEIGHTS}")
    told, _ = read_metadata(path / WEIGHTS)  # raises if the file is not a safetensors file
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(path / WEIGHTS).items():
        match = MATRIX.fullmatch(key)
        if match is None:
            raise refusal(path, f"must be plain LoRA, but its {WEIGHTS} has {key!r}")
        pairs.setdefault(match[1], {})[match[2]] = tensor
    for name, pair in sorted(pairs.items()):
        shapes = [tuple(pair[part].shape) if part in pair else () for part in "AB"]
        if shapes[0][:1] != (lora.rank,) or shapes[1][1:] != (lora.rank,) or len(shapes[0]) != 2:
            raise refusal(
                path, f"must have two matrices of rank {lora.rank} for {name}, but has {shapes}"
            )
        lora.names.append(name)
        lora.down.append(nn.Parameter(pair["A"]))
        lora.up.append(nn.Parameter(pair["B"]))
    lora.metadata = {"base_model": base, **{k: told[k] for k in (BASE_BITS,) if k in told}}
    return lora.requires_grad_(False)


def _read_config(path: Path) -> tuple[LoRA, str]:
    """Reads the configuration; returns a LoRA without matrices, and the name of its base."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        rank, alpha, modules = (config[key] for key in ("r", "lora_alpha", "target_modules"))
        layers, base = config.get("layers_to_transform"), config.get("base_model_name_or_path")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise refusal(path, f"has no usable {CONFIG} ({one_line(error)})") from error
    odd = [key for key in NOT_PLAIN if config.get(key)]
    odd += ["peft_type"] if config.get("peft_type") != "LORA" else []
    if odd:
        raise refusal(path, f"must be plain LoRA, but its {CONFIG} has {', '.join(odd)}")
    layers = [layers] if type(layers) is int else layers
    known = type(rank) is int and type(alpha) in (int, float)
    known = known and (isinstance(modules, str) or _is_list(modules, str))
    known = known and (layers is None or _is_list(layers, int)) and isinstance(base or "", str)
    if not known:
        raise refusal(path, f"has values of unknown types in its {CONFIG}")
    chosen = "all" if layers is None else layers
    return LoRA(rank=rank, alpha=alpha, target_modules=modules, layers=chosen), one_line(base or "")


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _import_peft() -> Any:
    try:
        with quiet_imports():
            import peft
    except ModuleNotFoundError as error:
        raise ConfigError(
            "model.steering",
            "LoRA",
            rule="needs the package peft",
            fix=install_command("lora"),
        ) from error
    return peft
