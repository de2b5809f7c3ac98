"""Vectors on disk: one safetensors file, tensor `vectors` (L, D) float32, plain, with metadata.

Format version 1 is of vectors that are added to the output of layers, for all tokens. Others are of
version 2, which names place and tokens, so that what reads version 1 alone refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from steer_lightning.atomic import write_bytes
from steer_lightning.errors import ConfigError
from steer_lightning.steering.at_sites import SiteVectors
from steer_lightning.steering.layers import parse_layers
from steer_lightning.steering.sites import Site
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.vectors import SteeringVectors

PLAIN = {"site": "layer_output", "tokens": "all"}
"""Of format version 1."""
PLACES = {"site": get_args(Site), "tokens": get_args(Tokens)}
"""Of format version 2."""


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
    """Saves plain vectors (units multiplied out) as one safetensors file.

    Written aside, then renamed.

    Args:
        vectors: The trained object, or a tensor (L, D).
        path: The file; an existing one is replaced in one go.
        base_model: Hub id or folder of the base model.
        revision: Its revision.
        step: Optimizer steps taken.
        layers: For a tensor: 0-based indices of its L layers; default the first L.
        num_layers: For a tensor: decoder layers of the model; default L.

    Raises:
        ConfigError: If a tensor's rows do not match `layers`, or a value is not finite.
        OSError: If the disk is full or the folder can't be written; the earlier file is left as it
            was.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = _from_rows(vectors, layers, num_layers)
    where = {"site": vectors.site, "tokens": vectors.tokens}
    tensor = vectors.vectors
    tensor = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigError(
            "vectors", "NaN or infinity", rule="must be finite", why="Such vectors break the model"
        )
    metadata = {
        "format_version": "1" if where == PLAIN else "2",
        "base_model": base_model,
        "revision": revision or "",
        "layers": json.dumps(list(vectors.layers)),
        "num_layers": str(vectors.num_layers),
        "site": vectors.site,
        "width": str(tensor.shape[1]),
        "step": "" if step is None else str(step),
    }
    if where != PLAIN:
        metadata["tokens"] = vectors.tokens
    write_bytes(Path(path), save({"vectors": tensor}, metadata))


def find_vectors(path: str | Path) -> Path:
    """The file of vectors: the path itself, or the one in the folder of a run.

    Raises:
        ConfigError: If there is none.
    """
    path, name = Path(path).expanduser(), SteeringVectors.file_name
    if path.is_file():
        return path
    rule = f"holds no {name}" if path.is_dir() else "there is no such file"
    if not (path / name).is_file():
        raise ConfigError("vectors", str(path), rule=rule)
    return path / name


def _from_rows(
    tensor: torch.Tensor, layers: Sequence[int] | None, num_layers: int | None
) -> SteeringVectors:
    if tensor.dim() != 2:
        raise ConfigError(
            "vectors", tuple(tensor.shape), rule="must have two dimensions, (layers, width)"
        )
    count = tensor.shape[0]
    chosen = list(range(count) if layers is None else layers)
    vectors = SteeringVectors(chosen).shaped(tensor.shape[1], num_layers or count)
    if len(vectors.layers) != count:
        raise ConfigError("layers", layers, rule=f"must name {count} layers, one for each row")
    vectors.set_vectors(tensor)
    return vectors


def load_vectors(path: str | Path) -> SteeringVectors:
    """Loads vectors; the file's metadata is the result's `metadata`.

    Args:
        path: A file written by `save_vectors`.

    Returns:
        Frozen vectors on the CPU, in plain units.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If it is no vectors file, or tensor and metadata contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vectors file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            tensor = file.get_tensor("vectors") if names == ["vectors"] else None
    except SafetensorError as error:
        raise _not_vectors(path, f"is not a readable safetensors file ({error})") from error
    version = metadata.get("format_version")
    if tensor is None or version not in ("1", "2"):
        raise _not_vectors(
            path,
            'must hold one tensor "vectors" and format_version 1 or 2; '
            f"it holds {names[:5]} and format_version {version}",
        )
    where = _where(path, metadata)
    layers, num_layers, width = _shape_facts(path, metadata)
    if tuple(tensor.shape) != (len(layers), width) or tensor.dtype != torch.float32:
        raise _not_vectors(
            path,
            f"says {len(layers)} layers of width {width} in float32, "
            f"but its tensor is {tuple(tensor.shape)} in {tensor.dtype}",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise _not_vectors(path, "holds NaN or infinity, which would break the model")
    vectors = SteeringVectors(list(layers), **where).shaped(width, num_layers)
    vectors.metadata = metadata
    vectors.set_vectors(tensor)
    return vectors.requires_grad_(False)


def _where(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Place and tokens, as arguments of `SteeringVectors`."""
    found = {"site": metadata.get("site"), "tokens": metadata.get("tokens", "all")}
    plain = metadata["format_version"] == "1"
    known = {name: (value,) for name, value in PLAIN.items()} if plain else PLACES
    for name, values in known.items():
        if found[name] not in values:
            shown = " or ".join(f'"{value}"' for value in values)
            raise _not_vectors(path, f"must be of {name} {shown}, not {found[name]!r}")
    return found


def _shape_facts(path: Path, metadata: dict[str, str]) -> tuple[tuple[int, ...], int, int]:
    try:
        layers = json.loads(metadata["layers"])
        num_layers, width = int(metadata["num_layers"]), int(metadata["width"])
    except (KeyError, ValueError, RecursionError) as error:
        raise _not_vectors(
            path, f"has no usable layers, num_layers or width in its metadata ({error})"
        ) from error
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers) or width < 1:
        raise _not_vectors(path, f"has layers {layers!r} and width {width} in its metadata")
    return parse_layers(layers, num_layers), num_layers, width


def _not_vectors(path: Path, rule: str) -> ConfigError:
    return ConfigError(
        "vectors file",
        str(path),
        rule=rule,
        fix="Use a file written by steer_lightning.save_vectors",
    )
