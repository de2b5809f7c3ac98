"""The files of vectors: safetensors with a plain tensor `vectors`, (L, D) float32, and metadata.

Format version 1 is for vectors that are added to the output of layers, for all tokens. Others have
version 2, which names kind, place and tokens, so that a program that reads only version 1 refuses
them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.steering.adaptive import AdaptiveVectors
from steer_lightning.steering.base import Steering
from steer_lightning.steering.biases import BitFit
from steer_lightning.steering.full import FullFinetune
from steer_lightning.steering.layers import in_layer_order, parse_layers
from steer_lightning.steering.lora import CONFIG, LoRA, load_lora
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal, write_result
from steer_lightning.steering.site_vectors import SiteVectors
from steer_lightning.steering.sites import Site
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.vectorfit import VectorFit
from steer_lightning.steering.vectors import SteeringVectors
from steer_lightning.steering.weight_changes import WeightChanges

CHANGES: dict[str, type[WeightChanges]] = {
    kind.__name__: kind for kind in (BitFit, FullFinetune, VectorFit)
}
KINDS = {"SteeringVectors": SteeringVectors, "AdaptiveVectors": AdaptiveVectors}
PLAIN = {"kind": "SteeringVectors", "site": "layer_output", "tokens": "all"}
"""Values that format version 1 implies."""
KNOWN = {"kind": tuple(KINDS), "site": get_args(Site), "tokens": get_args(Tokens)}
"""Values that format version 2 allows."""
RESULTS = (
    *(SteeringVectors.file_name, AdaptiveVectors.file_name),
    *(LoRA.file_name, WeightChanges.file_name),
)
"""Names of the results of runs, which depend on the kind that was trained."""


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
    """Saves plain vectors (units multiplied out) as one safetensors file, whole or not at all.

    Args:
        vectors: Trained object, or a tensor (L, D).
        path: File to write; an existing one is replaced in one go.
        base_model: Hub id or folder of the base model.
        revision: Revision of the base model.
        step: Number of optimizer steps taken.
        layers: 0-based indices of the layers to which the L rows of a tensor belong, in any order;
            by default the first L. The file holds layers and rows in ascending order.
        num_layers: Number of decoder layers of the model, for a tensor; L by default.

    Raises:
        ConfigError: If a tensor's rows do not match `layers`, or a value is not finite.
        OSError: If the disk is full or the folder can't be written; the earlier file is left as it
            was.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = _from_rows(vectors, layers, num_layers)
    where = {"kind": vectors.saved_as, "site": vectors.site, "tokens": vectors.tokens}
    metadata = {
        "format_version": "1" if where == PLAIN else "2",
        "base_model": base_model,
        "revision": revision,
        "layers": json.dumps(list(vectors.layers)),
        "num_layers": vectors.num_layers,
        "width": vectors.width,
        "step": step,
        **({"site": vectors.site} if where == PLAIN else where),
    }
    write_result(Path(path), vectors.result(), metadata)


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
        raise ConfigError("vectors", str(path), rule=f"holds no {' or '.join(names)}")
    if len(found) > 1:
        several = " and ".join(one.name for one in found)
        raise ConfigError("vectors", str(path), rule=f"holds {several}", fix="Name one of them")
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
    """Loads vectors, with the metadata of the file, without control characters, as `metadata`.

    Args:
        path: File of `save_vectors`, or another one of its format; layers may come in any order,
            and their rows are sorted with them.

    Returns:
        Frozen vectors on the CPU, in plain units; an `AdaptiveVectors` if they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file holds no vectors, or tensor and metadata contradict each other.
    """
    path = Path(path)
    metadata, names = read_metadata(path)
    version, kind = metadata.get("format_version"), metadata.get("kind", PLAIN["kind"])
    needed = sorted(KINDS[kind].result_names) if kind in KINDS else []
    if names != needed or version not in ("1", "2"):
        raise refusal(
            path,
            'must hold one tensor "vectors", or what its kind needs, and format_version 1 or 2; '
            f"it holds {names[:5]} and format_version {version}",
        )
    where = _where(path, metadata)
    layers, num_layers, width = _shape_facts(path, metadata)
    tensors = read_tensors(path)
    for tensor in tensors.values():
        if tuple(tensor.shape) != (len(layers), width):
            raise refusal(
                path,
                f"says {len(layers)} layers of width {width}, "
                f"but its tensor is {tuple(tensor.shape)}",
            )
    # another program may have written the layers in an order of its own
    in_order = {name: in_layer_order(x, layers, num_layers) for name, x in tensors.items()}
    ascending = sorted(layers)
    vectors = KINDS[where.pop("kind")](ascending, **where).shaped(width, num_layers)
    vectors.metadata = metadata | {"layers": json.dumps(ascending)}
    vectors.set_result({name: rows for name, (rows, _) in in_order.items()})
    return vectors.requires_grad_(False)


def load_steering(path: str | Path) -> Steering:
    """Loads the result of a run, of any kind.

    Args:
        path: File, or for LoRA folder, as `Steering.save` writes it.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is damaged or of an unknown kind.
    """
    path = Path(path)
    if path.is_dir():
        return load_lora(path)
    kind = read_metadata(path)[0].get("kind", "")
    if kind not in CHANGES:
        return load_vectors(path)
    found = CHANGES[kind]()
    found.load(path)
    return found


def _where(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Reads kind, place and tokens from the metadata, and checks them."""
    found = {**PLAIN, "site": "", **{key: metadata[key] for key in PLAIN if key in metadata}}
    plain = metadata["format_version"] == "1"
    known = {key: (value,) for key, value in PLAIN.items()} if plain else KNOWN
    for key, values in known.items():
        if found[key] not in values:
            shown = " or ".join(f'"{value}"' for value in values)
            raise refusal(path, f"must be of {key} {shown}, not {metadata.get(key)!r}")
    return found


def _shape_facts(path: Path, metadata: dict[str, str]) -> tuple[list[int], int, int]:
    """Reads the layers, in the order of the rows, the number of decoder layers, and the width."""
    try:
        layers = json.loads(metadata["layers"])
        num_layers, width = int(metadata["num_layers"]), int(metadata["width"])
    except (KeyError, ValueError, RecursionError) as error:
        raise refusal(
            path, f"has no usable layers, num_layers or width in its metadata ({error})"
        ) from error
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers) or width < 1:
        raise refusal(path, f"has layers {layers!r} and width {width} in its metadata")
    parse_layers(layers, num_layers)
    return layers, num_layers, width
