"""LoRA, trained in PEFT's own modules."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import BASE_BITS, Attachment
from steer_lightning.steering.peft_modules import (
    ADAPTER,
    CONFIG,
    WEIGHTS,
    PeftModules,
    check_plain,
    import_peft,
    read_config,
    take_out,
)
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal

PREFIX = "base_model.model."
"""Prefix of the names of a model's modules in PEFT's files."""
MATRIX = re.compile(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight")
NOT_PLAIN = (
    *("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern"),
    *("modules_to_save", "trainable_token_indices", "target_parameters"),
)
"""Settings of PEFT that make a LoRA compute something else."""


class LoRA(PeftModules):
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
    mark = ".lora_"

    def __init__(
        self,
        rank: int = 4,
        alpha: float | None = None,
        target_modules: list[str] | Literal["all-linear"] = "all-linear",
        layers: str | list[int] = "all",
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__(rank, target_modules, layers, init_from, layers_path)
        self.alpha = float(rank if alpha is None else alpha)
        self.down, self.up = nn.ParameterList(), nn.ParameterList()

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        tuner = self.inject(model)
        layers = _layers(tuner)
        shapes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
        take_out(tuner)
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

    def settings(self) -> tuple[type[Any], type[Any], dict[str, Any]]:
        """Returns PEFT's classes and settings; see `PeftModules.settings`."""
        peft = import_peft("LoRA")
        return peft.LoraModel, peft.LoraConfig, {"lora_alpha": self.alpha}

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
            raise self.refuse_model(model, odd)

    # ---- using

    def attach(self, model: nn.Module, scale: float = 1.0) -> Attachment:
        """Puts PEFT's modules into a model; see `Steering.attach`."""
        return InjectedLoRA(model, self, scale)

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
            tensors[f"{PREFIX}{name}.lora_A.weight"] = down
            tensors[f"{PREFIX}{name}.lora_B.weight"] = up
        self.write_folder(
            path, tensors, self.names, base_model=base_model, revision=revision, step=step
        )


class InjectedLoRA(Attachment):
    """Runs PEFT's modules in a model, with the parameters of a `LoRA`."""

    def __init__(self, model: nn.Module, lora: LoRA, scale: float) -> None:
        self._tuner = lora.inject(model)
        found = _layers(self._tuner)
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
            take_out(self._tuner)
            self._tuner = None


def _layers(tuner: Any) -> dict[str, Any]:
    """Returns PEFT's modules by the names of the linear layers around which they are."""
    kind = import_peft("LoRA").tuners.lora.LoraLayer
    return {name: m for name, m in tuner.model.named_modules() if isinstance(m, kind)}


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
    config = read_config(path)
    check_plain(path, config, "LoRA", NOT_PLAIN)
    if config["peft_type"] != "LORA":
        raise refusal(path, f"must be plain LoRA, but its {CONFIG} has peft_type")
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float):
        raise refusal(path, f"has values of unknown types in its {CONFIG}")
    lora = LoRA(
        rank=config["r"],
        alpha=alpha,
        target_modules=config["target_modules"],
        layers=config["layers_to_transform"],
    )
    return lora, config["base_model_name_or_path"]
