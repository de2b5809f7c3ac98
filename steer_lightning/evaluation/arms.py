"""What is compared: the base, the base steered, other scales, layers left out, other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.printable import printable
from steer_lightning.steering import SteeringVectors, find_vectors, load_steering

BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to steer the model.

    Attributes:
        name: In tables and files.
        vectors: (decoder layers, D) float32, plain; zeros are the base, bit for bit.
    """

    name: str
    vectors: torch.Tensor


def load_files(paths: Sequence[str]) -> dict[str, SteeringVectors]:
    """Vectors by the name of their arm: `steered` for a single file, else what tells files apart.

    Args:
        paths: Files, or folders of runs.

    Raises:
        ConfigError: If there is no such file, it is none of vectors, or is named twice.
    """
    files = [find_vectors(path) for path in paths]
    if len(set(files)) < len(files):
        raise ConfigError("vectors", list(paths), rule="names a file twice")
    if len(files) == 1:
        return {"steered": _load(files[0])}
    stems = [printable(Path(path).stem) for path in paths]
    names = stems if len(set(stems)) == len(stems) else [printable(path) for path in paths]
    return {name: _load(path) for name, path in zip(names, files, strict=True)}


def base_of(files: Mapping[str, SteeringVectors], trust_remote_code: bool) -> str:
    """The base that all files were trained on.

    Raises:
        ConfigError: If they name none, or several, or its code is to run.
    """
    if trust_remote_code:
        raise ConfigError(
            "base",
            None,
            rule="must be given where trust_remote_code is on",
            why="Otherwise a file of vectors would name whose code runs on this machine",
        )
    named = {vectors.metadata.get("base_model") for vectors in files.values()} - {None, ""}
    if len(named) == 1:
        return str(named.pop())
    why = "The vectors' files name several" if named else "No file of vectors names one"
    raise ConfigError("base", None, rule="must be given", why=why)


def _load(path: Path) -> SteeringVectors:
    found = load_steering(path)
    if not isinstance(found, SteeringVectors) or found.metadata["format_version"] != "1":
        raise ConfigError(
            "vectors",
            str(path),
            rule="must hold vectors for the output of layers and for all tokens",
            why=f"It holds {type(found).__name__} of another kind, place or tokens, which this "
            "command does not read yet",
            fix="Take steer_lightning.attach for it, or `steer-lightning test` with its checkpoint",
        )
    return found


def check_shapes(files: Mapping[str, SteeringVectors], base: str, layers: int, width: int) -> None:
    """Raises a ConfigError if vectors do not fit the base, before it is loaded."""
    for name, vectors in files.items():
        if (vectors.num_layers, vectors.width) != (layers, width):
            trained = vectors.metadata.get("base_model", "another model")
            raise ConfigError(
                "vectors",
                name,
                rule=f"are of {vectors.num_layers} decoder layers and width {vectors.width}; "
                f"{base} has {layers} and {width}",
                why=f"They were trained on {trained}",
                fix="Set base to that model, or take vectors of this one",
            )


def make_arms(
    files: Mapping[str, SteeringVectors],
    scales: Sequence[float],
    leave_out: Sequence[int] | Literal["each"] | None,
    layers: int,
    width: int,
) -> list[Arm]:
    """All arms, the base first.

    Args:
        files: From `load_files`.
        scales: Factors on all vectors, an arm for each.
        leave_out: Layers of which each is left out once, at scale 1; `each` takes every steered
            one.
        layers: Decoder layers of the base.
        width: Of its stream.

    Raises:
        ConfigError: If a layer is left out that is not steered.
    """
    arms = [Arm(name=BASE, vectors=torch.zeros(layers, width))]
    for name, vectors in files.items():
        whole = torch.zeros(layers, width)
        whole[list(vectors.layers)] = vectors.vectors.detach()
        for scale in scales:
            shown = name if scale == 1 else f"{name} x {scale:g}"
            arms.append(Arm(name=shown, vectors=whole * scale))
        for layer in _left_out(leave_out, vectors, name):
            part = whole.clone()
            part[layer] = 0
            arms.append(Arm(name=f"{name} without layer {layer}", vectors=part))
    return arms


def _left_out(
    leave_out: Sequence[int] | Literal["each"] | None, vectors: SteeringVectors, name: str
) -> Sequence[int]:
    if leave_out == "each":
        return vectors.layers
    chosen = leave_out or ()
    strangers = sorted(set(chosen) - set(vectors.layers))
    if strangers:
        raise ConfigError(
            "leave_out_layers",
            strangers,
            rule=f"are not steered by {name}",
            why=f"It steers {', '.join(map(str, vectors.layers))}",
        )
    return chosen
