"""The arms that are measured beside the trained vectors: other scales, and layers left out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.arms import NAME, LeaveOut
from steer_lightning.steering import Attachment, Steering
from steer_lightning.steering.layers import shown_layers
from steer_lightning.steering.row_vectors import steers_rows
from steer_lightning.steering.vector_hooks import HookedVectors

KEY = "BenchmarkEval.arms"
LEAVE_OUT = "BenchmarkEval.leave_out_layers"
TRAINED = "trained"
"""Name of the arm of the trained vectors as they are."""


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """Settings of an arm, which changes how the trained vectors act while problems are answered.

    Attributes:
        scale: Factor on the trained parameters; 0 is the base.
        without_layers: Layers whose vectors are left out; null leaves none out.
        only_layers: Layers whose vectors act, and no others; null lets all of them act.
    """

    scale: float = 1.0
    without_layers: Sequence[int] | None = None
    only_layers: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class EvalArm:
    """An arm of a run whose layers are known.

    Attributes:
        name: Name of the arm in metrics and tables.
        scale: Factor on the trained parameters.
        left_out: Indices of the layers whose vectors do nothing.
    """

    name: str
    scale: float = 1.0
    left_out: frozenset[int] = frozenset()

    @property
    def effect(self) -> tuple[float, frozenset[int]]:
        """What the arm does; two arms of the same effect are the same."""
        return (self.scale, self.left_out) if self.scale else (0.0, frozenset())


def check_arms(arms: Mapping[str, ArmSettings] | None, leave_out: LeaveOut) -> None:
    """Raises a ConfigError for settings that are wrong for every model.

    Args:
        arms: Arms by name; None adds none.
        leave_out: Layers of which each is left out once; None adds no arms.
    """
    if arms is not None and not arms:
        raise ConfigError(KEY, arms, rule="must name at least one arm, or be null")
    for name, arm in (arms or {}).items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == TRAINED:
            raise ConfigError(
                f"{KEY}.{name}",
                name,
                rule="is no name for an arm: a name is a text of letters, digits, '_', '.' and "
                f"'-', begins with none of the last two, and is not {TRAINED!r}",
                why="It becomes a part of the names of metrics; the trained vectors themselves are "
                f"called {TRAINED!r}",
            )
        if not math.isfinite(arm.scale):
            raise ConfigError(f"{KEY}.{name}.scale", arm.scale, rule="must be finite")
        if arm.without_layers is not None and arm.only_layers is not None:
            raise ConfigError(
                f"{KEY}.{name}",
                [list(arm.without_layers), list(arm.only_layers)],
                rule="sets both without_layers and only_layers",
                fix="Set one of them",
            )
        for key in ("without_layers", "only_layers"):
            _check_indices(f"{KEY}.{name}.{key}", getattr(arm, key))
    if leave_out != "each":
        _check_indices(LEAVE_OUT, leave_out)


def _check_indices(key: str, layers: Sequence[int] | None) -> None:
    if layers is None:
        return
    if not layers or len(set(layers)) < len(layers):
        rule = "must name at least one layer, each only once, or be null"
        raise ConfigError(key, list(layers), rule=rule)


def arms_of(
    arms: Mapping[str, ArmSettings] | None, leave_out: LeaveOut, steering: Steering
) -> list[EvalArm]:
    """Returns the arms of a run, the trained vectors first.

    Args:
        arms: Arms by name; None adds none.
        leave_out: Layers of which each is left out once, or `each` for all trained layers; None
            adds no arms.
        steering: What is trained, after `build`.

    Raises:
        ConfigError: If a layer is not trained, none is left, layers of this kind can't be left out,
            or two arms are the same.
    """
    found = [EvalArm(name=TRAINED)]
    for name, arm in (arms or {}).items():
        left_out: frozenset[int] = frozenset()
        for key in ("without_layers", "only_layers"):
            named = getattr(arm, key)
            if named is not None:
                trained = _trained(f"{KEY}.{name}.{key}", named, steering)
                left_out = frozenset(named if key == "without_layers" else trained - set(named))
                if left_out == trained:
                    raise _nothing_left(f"{KEY}.{name}.{key}", named)
        found.append(EvalArm(name=name, scale=arm.scale, left_out=left_out))
    if leave_out is not None:
        trained = _trained(LEAVE_OUT, () if leave_out == "each" else leave_out, steering)
        if len(trained) == 1:
            raise _nothing_left(LEAVE_OUT, leave_out)
        found += [
            EvalArm(name=f"without_layer_{layer}", left_out=frozenset({layer}))
            for layer in (sorted(trained) if leave_out == "each" else leave_out)
        ]
    _check_different(found)
    return found


def _trained(key: str, named: Collection[int], steering: Steering) -> frozenset[int]:
    """Returns the trained layers; raises a ConfigError if a named layer is none of them."""
    if not steers_rows(steering):
        raise ConfigError(
            key,
            list(named) or "each",
            rule=f"model.steering is {type(steering).__name__}, of which no layer can be left out",
            why="Only vectors that are added in each layer act independently of each other",
            fix="Use arms that set nothing but scale, or train vectors",
        )
    strangers = sorted(set(named) - set(steering.layers))
    if strangers:
        raise ConfigError(
            key,
            strangers,
            rule="are not trained layers",
            why=f"model.steering trains layers {shown_layers(steering.layers)} of the model's "
            f"{steering.num_layers}",
        )
    return frozenset(steering.layers)


def _nothing_left(key: str, layers: object) -> ConfigError:
    return ConfigError(
        key,
        layers,
        rule="leaves no trained layer",
        why="Without any vector the model is the base",
        fix="Set scale: 0 to measure the base",
    )


def _check_different(arms: Sequence[EvalArm]) -> None:
    names: dict[str, EvalArm] = {}
    effects: dict[tuple[float, frozenset[int]], EvalArm] = {}
    for arm in arms:
        if arm.name in names:
            rule = f"{LEAVE_OUT} adds an arm of this name"
            raise ConfigError(f"{KEY}.{arm.name}", arm.name, rule=rule, fix="Rename one of them")
        same = effects.get(arm.effect)
        if same is not None:
            told = "the trained vectors, which are always measured"
            other = told if same.name == TRAINED else f"the arm {same.name}"
            raise ConfigError(
                f"{KEY}.{arm.name}",
                arm.name,
                rule=f"is the same as {other}",
                fix="Leave one of them out, or change its scale or layers",
            )
        names[arm.name] = effects[arm.effect] = arm


@contextmanager
def acting_as(attachment: Attachment, arm: EvalArm) -> Iterator[None]:
    """Lets the trained parameters act as an arm does within the block; they do not change.

    Args:
        attachment: Attachment of what is trained.
        arm: Arm, whose layers can be left out.
    """
    scale = attachment.scale
    attachment.scale = scale * arm.scale
    if isinstance(attachment, HookedVectors):
        attachment.left_out = arm.left_out
    try:
        yield
    finally:
        attachment.scale = scale
        if isinstance(attachment, HookedVectors):
            attachment.left_out = frozenset()
