"""Saves, loads and finds the results of runs, of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.steering.adaptive import AdaptiveVectors
from steer_lightning.steering.base import Steering
from steer_lightning.steering.biases import BitFit
from steer_lightning.steering.frozen_matrices import FrozenMatrices, load_frozen_matrices
from steer_lightning.steering.full import FullFinetune
from steer_lightning.steering.layers import in_layer_order
from steer_lightning.steering.lora import LoRA, load_lora
from steer_lightning.steering.peft_modules import CONFIG, read_config
from steer_lightning.steering.read import READ, load_read
from steer_lightning.steering.reft import LoReFT, load_reft
from steer_lightning.steering.result_file import read_metadata
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.steering.smoa import SMoA
from steer_lightning.steering.tiny_lora import TinyLoRA
from steer_lightning.steering.vectorfit import VectorFit
from steer_lightning.steering.vectors import SteeringVectors
from steer_lightning.steering.vectors_file import read_vectors_file
from steer_lightning.steering.vera import VeRA
from steer_lightning.steering.weight_changes import WeightChanges
from steer_lightning.system.run_files import find_runs

CHANGES: dict[str, type[WeightChanges]] = {
    kind.__name__: kind for kind in (BitFit, FullFinetune, SMoA, VectorFit)
}
KINDS = {"SteeringVectors": SteeringVectors, "AdaptiveVectors": AdaptiveVectors}
ADAPTERS: dict[str, type[FrozenMatrices]] = {"TINYLORA": TinyLoRA, "VERA": VeRA}
"""Kinds whose results are folders in PEFT's format, by PEFT's name; all others are read as LoRA."""
RESULTS = (
    *(SteeringVectors.file_name, AdaptiveVectors.file_name, WeightChanges.file_name),
    *(LoReFT.file_name, READ.file_name),
    *(LoRA.file_name, TinyLoRA.file_name, VeRA.file_name),
)
"""Names of the results of runs, by the kind that was trained."""


def save_vectors(
    vectors: SiteVectors | torch.Tensor,
    path: str | Path,
    *,
    base_model: str,
    revision: str | None = None,
    step: int | None = None,
    layers: Sequence[int] | None = None,
    num_layers: int | None = None,
) -> None:
    """Saves plain vectors, with units multiplied in, as one safetensors file, whole or not at all.

    Args:
        vectors: Trained object, or a tensor (L, D).
        path: File to write; an existing file is replaced atomically.
        base_model: Hub id or folder of the base model.
        revision: Revision of the base model.
        step: Number of optimizer steps taken.
        layers: 0-based indices of the layers of a tensor's L rows, in any order; by default the
            first L layers. The file holds layers and rows in ascending order.
        num_layers: Number of decoder layers of the model, for a tensor; L by default.

    Raises:
        ConfigError: If a tensor's rows do not match `layers`, a value is not finite, or `layers` or
            `num_layers` is given with an object, which has its own.
        OSError: If the disk is full or the folder can't be written; the earlier file is left as it
            was.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = _from_rows(vectors, layers, num_layers)
    elif layers is not None or num_layers is not None:
        given = "num_layers" if layers is None else "layers"
        raise ConfigError(
            given,
            layers if given == "layers" else num_layers,
            rule=f"can't be given with an object, whose own layers are {list(vectors.layers)} of "
            f"{vectors.num_layers}",
            fix=f"Leave {given} out, or pass the rows, `vectors.vectors`, to use other layers",
        )
    vectors.save(Path(path), base_model=base_model, revision=revision, step=step)


def find_vectors(path: str | Path) -> Path:
    """Finds a file of vectors: the path itself, or the file in the folder of a run.

    Raises:
        ConfigError: If there is no such file.
    """
    return _find(Path(path).expanduser(), (SteeringVectors.file_name,))


def find_result(path: str | Path) -> Path:
    """Finds the result of a run, of any kind: the path itself, or the result in a run's folder.

    Raises:
        ConfigError: If there is no result, or there are several.
    """
    path = Path(path).expanduser()
    return path if (path / CONFIG).is_file() else _find(path, RESULTS)


def _find(path: Path, names: Sequence[str]) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError("vectors", str(path), rule="there is no such file")
    found = [path / name for name in names if (path / name).exists()]
    if not found:
        runs = [run for run in find_runs(path) if run != path]
        fix = f"Name one of its runs, such as {runs[0]}" if runs else ""
        raise ConfigError("vectors", str(path), rule=f"contains no {' or '.join(names)}", fix=fix)
    if len(found) > 1:
        several = " and ".join(one.name for one in found)
        raise ConfigError("vectors", str(path), rule=f"contains {several}", fix="Name one of them")
    return found[0]


def _from_rows(
    tensor: torch.Tensor, layers: Sequence[int] | None, num_layers: int | None
) -> SteeringVectors:
    if tensor.dim() != 2:
        raise ConfigError(
            "vectors", tuple(tensor.shape), rule="must have two dimensions, (layers, width)"
        )
    count = tensor.shape[0]
    num_layers = count if num_layers is None else num_layers
    rows, chosen = in_layer_order(tensor, range(count) if layers is None else layers, num_layers)
    vectors = SteeringVectors(list(chosen)).shaped(tensor.shape[1], num_layers)
    vectors.set_vectors(rows)
    return vectors


def load_vectors(path: str | Path) -> SteeringVectors:
    """Loads vectors; their `metadata` is that of the file, without control characters.

    Args:
        path: File written by `save_vectors`, another file of that format, or the folder of a run.
            Layers may come in any order; their rows are sorted with them.

    Returns:
        Frozen vectors on the CPU, in plain units; an `AdaptiveVectors` if the file has gates.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file contains no vectors, or tensor and metadata contradict each other.
    """
    path = Path(path)
    found = read_vectors_file(find_vectors(path) if path.is_dir() else path)
    vectors = KINDS[found.kind](list(found.layers), site=found.site, tokens=found.tokens)
    vectors.shaped(found.width, found.num_layers).set_result(found.tensors)
    vectors.metadata = {name: str(value) for name, value in found.metadata.items()}
    return vectors.requires_grad_(False)


def load_steering(path: str | Path) -> Steering:
    """Loads the result of a run, of any kind.

    Args:
        path: File, or folder in PEFT's format, as written by `Steering.save`.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is damaged or of an unknown kind.
    """
    path = Path(path)
    if path.is_dir():
        adapter = ADAPTERS.get(read_config(path)["peft_type"])
        return load_lora(path) if adapter is None else load_frozen_matrices(adapter, path)
    kind = read_metadata(path)[0].get("kind", "")
    if kind == LoReFT.__name__:
        return load_reft(path)
    if kind == READ.__name__:
        return load_read(path)
    if kind not in CHANGES:
        return load_vectors(path)
    found = CHANGES[kind]()
    found.load(path)
    return found
