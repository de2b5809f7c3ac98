"""Files of vectors: safetensors with a plain tensor `vectors`, (L, D) float32, and metadata.

Format version 1 is for vectors that are added to the output of layers, for all tokens. All others
have version 2, which names kind, site and tokens, so that a program that reads only version 1
refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from steer_lightning.steering.layers import in_layer_order, parse_layers
from steer_lightning.steering.result_file import read_metadata, read_tensors, refusal, write_result
from steer_lightning.steering.sites import Site
from steer_lightning.steering.tokens import Tokens

TENSORS = {"SteeringVectors": ("vectors",), "AdaptiveVectors": ("vectors", "gates")}
"""Names of the tensors of each kind, each (L, D)."""
PLAIN = {"kind": "SteeringVectors", "site": "layer_output", "tokens": "all"}
"""Values that format version 1 implies."""
KNOWN = {"kind": tuple(TENSORS), "site": get_args(Site), "tokens": get_args(Tokens)}
"""Values that format version 2 allows."""


@dataclass(frozen=True, kw_only=True)
class VectorsFile:
    """The content of a file of vectors."""

    kind: str
    """Kind of the vectors, a key of `TENSORS`."""
    site: Site
    """Site in the decoder layers at which the vectors are added."""
    tokens: Tokens
    """Tokens that the vectors steer."""
    layers: tuple[int, ...]
    """Ascending 0-based indices of the L steered layers."""
    num_layers: int
    """Number of decoder layers of the model."""
    width: int
    """Width D of the residual stream."""
    tensors: Mapping[str, torch.Tensor]
    """Tensors (L, D) float32 by name, in plain units."""
    metadata: Mapping[str, str | int | None]
    """Other metadata, such as `base_model`, `revision` and `step`."""


def write_vectors_file(path: Path, content: VectorsFile) -> None:
    """Writes a file of vectors, completely or not at all.

    Raises:
        ConfigError: If a value is not finite.
        OSError: If the disk is full or the folder can't be written; the earlier file is left as it
            was.
    """
    where = {"kind": content.kind, "site": content.site, "tokens": content.tokens}
    metadata = {
        "format_version": "1" if where == PLAIN else "2",
        **content.metadata,
        "layers": json.dumps(list(content.layers)),
        "num_layers": content.num_layers,
        "width": content.width,
        **({"site": content.site} if where == PLAIN else where),
    }
    write_result(path, content.tensors, metadata)


def read_vectors_file(path: Path) -> VectorsFile:
    """Reads a file of vectors and checks that tensors and metadata agree.

    Args:
        path: File to read. Its layers may come in any order; their rows are sorted with them.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file contains no vectors, or tensors and metadata contradict each other.
    """
    metadata, names = read_metadata(path)
    version, kind = metadata.get("format_version"), metadata.get("kind", PLAIN["kind"])
    if names != sorted(TENSORS.get(kind, ())) or version not in ("1", "2"):
        raise refusal(
            path,
            'must contain one tensor "vectors", or the tensors of its kind, and format_version 1 '
            f"or 2, but contains {names[:5]} and format_version {version}",
        )
    where = _where(path, metadata)
    layers, num_layers, width = _shape_facts(path, metadata)
    tensors = read_tensors(path)
    for tensor in tensors.values():
        if tuple(tensor.shape) != (len(layers), width):
            raise refusal(
                path,
                f"has {len(layers)} layers of width {width} in its metadata, but its tensor has "
                f"shape {tuple(tensor.shape)}",
            )
    ascending = sorted(layers)
    return VectorsFile(
        **where,
        layers=tuple(ascending),
        num_layers=num_layers,
        width=width,
        # another program may have written the layers in another order
        tensors={name: in_layer_order(x, layers, num_layers)[0] for name, x in tensors.items()},
        metadata=metadata | {"layers": json.dumps(ascending)},
    )


def _where(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Reads kind, site and tokens from the metadata, and checks them."""
    found = {**PLAIN, "site": "", **{key: metadata[key] for key in PLAIN if key in metadata}}
    plain = metadata["format_version"] == "1"
    known = {key: (value,) for key, value in PLAIN.items()} if plain else KNOWN
    for key, values in known.items():
        if found[key] not in values:
            shown = " or ".join(f'"{value}"' for value in values)
            raise refusal(path, f"must have {key} {shown}, not {metadata.get(key)!r}")
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
