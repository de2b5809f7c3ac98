"""Result files: safetensors in float32 with metadata, complete and finite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from steer_lightning.errors import ConfigError
from steer_lightning.steering.layers import parse_layers
from steer_lightning.system.printable import one_line
from steer_lightning.system.whole_files import write_bytes


def write_result(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str | int | None]
) -> None:
    """Writes tensors and metadata to a file, completely or not at all.

    Raises:
        ConfigError: If a value is not finite.
        OSError: If the disk is full or the folder can't be written; the earlier file is left as it
            was.
    """
    plain = {
        name: tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in plain.values()):
        raise ConfigError(
            "vectors",
            "NaN or infinity",
            rule="must be finite",
            why="Such vectors would break the model",
        )
    texts = {name: "" if value is None else str(value) for name, value in metadata.items()}
    write_bytes(path, with_metadata(save(plain, texts), {}))


def with_metadata(content: bytes, further: Mapping[str, str]) -> bytes:
    """Adds metadata to a safetensors file, and sorts it, so that equal results give equal files.

    The file begins with the length of its JSON header, in which safetensors writes the metadata in
    arbitrary order.

    Args:
        content: Content of the file.
        further: Metadata to add; an entry of the same name is replaced.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted({**header["__metadata__"], **further}.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors' bytes aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


def read_metadata(path: Path) -> tuple[dict[str, str], list[str]]:
    """Reads the metadata of a file and the names of its tensors, but not the tensors.

    Anybody may have written the file, and its metadata is shown in logs, tables and pages. So each
    text is turned into one line without control characters.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is not a safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no vectors file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            names = sorted(file.keys())
            return {one_line(key): one_line(text) for key, text in told.items()}, names
    except SafetensorError as error:
        rule = f"is not a readable safetensors file ({one_line(error)})"
        raise refusal(path, rule) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads all tensors of a file whose metadata was read before.

    Raises:
        ConfigError: If a tensor is not in float32 or not finite.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise refusal(path, f"must be in float32, but {one_line(name)} is in {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise refusal(path, "contains NaN or infinity, which would break the model")
    return tensors


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The content of a file whose tensors belong to some layers of a model."""

    metadata: dict[str, str]
    """Metadata of the file, each text on one line."""
    tensors: dict[str, torch.Tensor]
    """Tensors by name, float32 and finite; their shapes have not been checked."""
    layers: list[int]
    """0-based indices of the layers, ascending."""
    num_layers: int
    """Number of decoder layers of the model."""


def read_parts(path: Path, kind: str, names: Sequence[str]) -> Parts:
    """Reads a file of one kind that has `kind`, `layers` and `num_layers` in its metadata.

    Args:
        path: Path of the file.
        kind: Name of the kind.
        names: Names of all tensors of a file of this kind.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is of another kind or damaged.
    """
    metadata, found = read_metadata(path)
    if metadata.get("kind") != kind or found != sorted(names):
        raise refusal(path, f"must contain {kind} with {', '.join(names)}, but has {found[:5]}")
    tensors = read_tensors(path)
    try:
        layers, num_layers = json.loads(metadata["layers"]), int(metadata["num_layers"])
    except (KeyError, ValueError, RecursionError) as error:
        raise refusal(path, f"has no usable layers in its metadata ({one_line(error)})") from error
    if not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
        raise refusal(path, f"has layers {layers!r}")
    parse_layers(layers, num_layers)
    return Parts(metadata=metadata, tensors=tensors, layers=layers, num_layers=num_layers)


def refusal(path: Path, rule: str) -> ConfigError:
    """Creates the error for a file that can't be used."""
    return ConfigError(
        "vectors file",
        str(path),
        rule=rule,
        fix="Use a file written by a run or by steer_lightning.save_vectors",
    )
