"""What is compared: the base, the base steered, other scales, layers left out, other results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steer_lightning.errors import ConfigError
from steer_lightning.model.fingerprint import sha256
from steer_lightning.model.policy import Policy
from steer_lightning.steering import (
    Steering,
    SteeringVectors,
    find_result,
    load_steering,
    warn_of_another_base,
)
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.system.printable import one_line

BASE = "base"

LeaveOut = Sequence[int] | Literal["each"] | None


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to steer the model.

    Attributes:
        name: In tables and files.
        steering: What steers it; what is zero, or at scale 0, is the base, bit for bit.
        scale: Factor on it.
        facts: Tells it from others of the same name.
    """

    name: str
    steering: Steering
    scale: float = 1.0
    facts: str = ""


def load_files(paths: Sequence[str]) -> dict[str, Steering]:
    """Results of runs by the name of their arm: `steered` for one, else what tells them apart.

    Args:
        paths: Files, folders of adapters, or folders of runs.

    Raises:
        ConfigError: If there is no such file, it is damaged, or is named twice.
    """
    files = [find_result(path) for path in paths]
    if len(set(files)) < len(files):
        raise ConfigError("vectors", list(paths), rule="names a file twice")
    if len(files) == 1:
        return {"steered": load_steering(files[0])}
    names = [one_line(Path(path).stem) for path in paths]
    if len({BASE, *names}) <= len(names):
        names = [one_line(path) for path in paths]
    return {name: load_steering(path) for name, path in zip(names, files, strict=True)}


def base_of(files: Mapping[str, Steering], trust_remote_code: bool) -> str:
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
    named = {found.metadata.get("base_model") for found in files.values()} - {None, ""}
    if len(named) == 1:
        return str(named.pop())
    why = "The vectors' files name several" if named else "No file of vectors names one"
    raise ConfigError("base", None, rule="must be given", why=why)


def check_fit(files: Mapping[str, Steering], policy: Policy) -> None:
    """Raises a ConfigError if a result does not fit the base, before that is loaded."""
    model = policy.empty_base()
    for name, steering in files.items():
        try:
            steering.build(model)
        except ConfigError as error:
            rule = f"does not fit {policy.base}"
            why = str(error).rstrip(".")
            raise ConfigError("vectors", name, rule=rule, why=why) from error
        warn_of_another_base(steering, policy.base)


def make_arms(
    files: Mapping[str, Steering], scales: Sequence[float], leave_out: LeaveOut
) -> list[Arm]:
    """All arms, the base first.

    Args:
        files: From `load_files`.
        scales: Factors on all that was learned, an arm for each.
        leave_out: Layers of which each is left out once, at scale 1; `each` takes every steered
            one.

    Raises:
        ConfigError: If a layer is left out that is not steered, or of something else than plain
            vectors, or two arms have the same name.
    """
    arms = [Arm(name=BASE, steering=SteeringVectors())]
    for name, steering in files.items():
        content = f"{steering.facts()} {sha256(steering.state_dict().items())}"
        facts = f"{type(steering).__name__} {hashlib.sha256(content.encode()).hexdigest()}"
        for scale in scales:
            shown = name if scale == 1 else f"{name} x {scale:g}"
            told = f"{facts} x {scale}"
            arms.append(Arm(name=shown, steering=steering, scale=scale, facts=told))
        for layer, rest in _left_out(leave_out, steering, name):
            told = f"without layer {layer}"
            arms.append(Arm(name=f"{name} {told}", steering=rest, facts=f"{facts} {told}"))
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        rule = f"two arms would be called {', '.join(twice)}"
        raise ConfigError("vectors", list(files), rule=rule, fix="Rename a file, or a scale")
    return arms


def _left_out(
    leave_out: LeaveOut, steering: Steering, name: str
) -> Iterator[tuple[int, SteeringVectors]]:
    """Each chosen layer, and the vectors without it."""
    if leave_out is None:
        return
    if type(steering) is not SteeringVectors:
        raise ConfigError(
            "leave_out_layers",
            leave_out,
            rule=f"{name} holds {steering.describe()}, of which no layer can be left out",
            why="Only plain vectors are one a layer, each by itself",
            fix="Leave it out, or compare files of plain vectors alone",
        )
    chosen = steering.layers if leave_out == "each" else leave_out
    strangers = sorted(set(chosen) - set(steering.layers))
    if strangers:
        raise ConfigError(
            "leave_out_layers",
            strangers,
            rule=f"are not steered by {name}",
            why=f"It steers {', '.join(map(str, steering.layers))}",
        )
    for layer in chosen:
        rows = steering.vectors.detach().clone()
        rows[steering.layers.index(layer)] = 0
        yield (
            layer,
            plain_vectors(
                rows,
                steering.layers,
                steering.num_layers,
                site=steering.site,
                tokens=steering.tokens,
            ),
        )
