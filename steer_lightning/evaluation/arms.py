"""The arms of a comparison: the base, results of runs, other scales, layers that are left out."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.budget import Budget
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.truncation import TruncatedWeights, Truncation
from steer_lightning.model.fingerprint import sha256
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import Sampling
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
NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""Form of a name that becomes a part of the names of arms and metrics."""

SCORE_PASSES = "score_passes"

LeaveOut = Sequence[int] | Literal["each"] | None

OWN_KEYS = {
    "data.template": "template",
    "data.max_prompt_tokens": "max_prompt_tokens",
    "model.base": "base",
    "model.dtype": "dtype",
    "model.quantization": "quantization",
}
"""Keys of `evaluate` and `lens` by those of `fit`, for messages from code that all of them use."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to steer the model, to be compared with others.

    Attributes:
        name: Name of the arm in tables and files.
        steering: Steering of the model; if it is zero, or at scale 0, the arm equals the base bit
            for bit.
        scale: Factor by which the steering is multiplied.
        facts: Text that distinguishes the arm from others with the same name.
        result: Name of the result of a run that the whole arm is; empty for the base, and for a
            part of a result.
        budget: Budget within which the arm answers; None forces nothing.
        without_budget: Name of the arm that is the same without its budget; empty if it has none.
        refinement: Settings by which its answers are refined; None leaves them as they are sampled.
        unrefined: Name of the arm that is the same without its refinement; empty if it has none.
        is_base: Whether nothing steers the arm.
        truncation: Truncation of the base's weights; None leaves them whole.
    """

    name: str
    steering: Steering
    scale: float = 1.0
    facts: str = ""
    result: str = ""
    budget: Budget | None = None
    without_budget: str = ""
    refinement: Refinement | None = None
    unrefined: str = ""
    is_base: bool = False
    truncation: TruncatedWeights | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its answers are completions as the model samples them."""
        return self.budget is None and self.refinement is None

    def on_weights_of(self, policy: Policy) -> AbstractContextManager[None]:
        """Gives a loaded base the weights of this arm within the block."""
        if self.truncation is None:
            return nullcontext()
        return self.truncation.within(policy.model)


def load_files(paths: Sequence[str]) -> dict[str, Steering]:
    """Loads results of runs, by the names of their arms.

    A single result is called `steered`. Several results are named after the stems of their paths,
    or after the whole paths if two stems are equal.

    Args:
        paths: Files, folders of adapters, or folders of runs.

    Raises:
        ConfigError: If a file is missing, damaged or named twice.
    """
    files = [find_result(path) for path in paths]
    if len(set(files)) < len(files):
        raise ConfigError("vectors", list(paths), rule="names a file twice")
    if len(files) == 1:
        return {"steered": load_steering(files[0])}
    places = [Path(path).expanduser() for path in paths]
    # a dot in the name of a folder does not start a suffix: `lr-0.1`
    names = [one_line(place.stem if place.is_file() else place.name) for place in places]
    if len({BASE, *names}) <= len(names):
        names = [one_line(path) for path in paths]
    return {name: load_steering(path) for name, path in zip(names, files, strict=True)}


def base_of(files: Mapping[str, Steering], trust_remote_code: bool) -> str:
    """Returns the base that all files were trained on.

    Raises:
        ConfigError: If the files name no base or several, or if code of the base is to run.
    """
    if trust_remote_code:
        raise ConfigError(
            "base",
            None,
            rule="must be given if trust_remote_code is true",
            why="Otherwise a file of vectors would decide whose code runs on this machine",
        )
    named = {found.metadata.get("base_model") for found in files.values()} - {None, ""}
    if len(named) == 1:
        return str(named.pop())
    why = "The files of vectors name several" if named else "No file of vectors names one"
    raise ConfigError("base", None, rule="must be given", why=why)


def check_fit(files: Mapping[str, Steering], policy: Policy) -> None:
    """Raises a ConfigError if a result does not fit the base, before the base is loaded."""
    model = policy.empty_base()
    for name, steering in files.items():
        try:
            steering.build(model)
        except ConfigError as error:
            rule = f"does not fit {policy.base}"
            why = str(error).rstrip(".")
            raise ConfigError("vectors", name, rule=rule, why=why) from error
        warn_of_another_base(steering, policy.base, policy.base_bits)


def check_quantization(policy: Policy, steerings: Sequence[Steering], engine: Any) -> None:
    """Raises a ConfigError if the base can't be quantised as it is asked for.

    Args:
        policy: Policy, whose weights may not be loaded yet.
        steerings: Everything that is going to steer it.
        engine: Engine that answers.
    """
    if policy.quantization is None:
        return
    if policy.base_bits is None:
        raise ConfigError(
            "model.quantization.where",
            "rollouts",
            rule="must be both outside of training",
            why="There is no update that reads the whole base",
        )
    policy.quantization.check_engine(engine)
    for steering in steerings:
        policy.quantization.check_steering(steering)


def check_scales(scales: Sequence[float]) -> None:
    """Raises a ConfigError for scales that are not finite, or named twice."""
    if not all(map(math.isfinite, scales)):
        raise ConfigError("scales", scales, rule="must be finite")
    if len(set(scales)) < len(scales):
        raise ConfigError("scales", scales, rule="names a scale twice")


def make_arms(
    files: Mapping[str, Steering],
    scales: Sequence[float],
    leave_out: LeaveOut,
    budgets: Mapping[str, Budget] | None = None,
    refinements: Mapping[str, Refinement] | None = None,
    truncations: Mapping[str, Truncation] | None = None,
) -> list[Arm]:
    """Makes all arms, the base first.

    Args:
        files: Results of runs, from `load_files`.
        scales: Factors by which each result is multiplied, with an arm for each.
        leave_out: Layers; each is left out once, at scale 1. `each` takes every steered layer.
        budgets: Budgets by name, within each of which each arm answers once more.
        refinements: Refinements by name, by each of which each arm answers once more.
        truncations: Truncations by name, with each of which each arm answers once more; with a
            truncation, also within each budget and by each refinement.

    Raises:
        ConfigError: If a layer to leave out is not steered, the result is not plain vectors, a
            budget, refinement or truncation has no proper name, or two arms have the same name.
    """
    keys = {"budgets": budgets, "refinements": refinements, "truncations": truncations}
    for key, named in keys.items():
        _check_names(key, named or {})
    arms = [Arm(name=BASE, steering=SteeringVectors(), is_base=True)]
    for name, steering in files.items():
        content = f"{steering.facts()} {sha256(steering.state_dict().items())}"
        facts = f"{type(steering).__name__} {hashlib.sha256(content.encode()).hexdigest()}"
        for scale in scales:
            shown = name if scale == 1 else f"{name} x {scale:g}"
            told = f"{facts} x {scale}"
            arms.append(Arm(name=shown, steering=steering, scale=scale, facts=told, result=name))
        for layer, rest in _left_out(leave_out, steering, name):
            told = f"without layer {layer}"
            arms.append(Arm(name=f"{name} {told}", steering=rest, facts=f"{facts} {told}"))
    arms = _with_further(arms, budgets or {}, refinements or {}, truncations or {})
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        rule = f"two arms would be called {', '.join(twice)}"
        raise ConfigError("vectors", list(files), rule=rule, fix="Rename a file, or a scale")
    return arms


def _check_names(key: str, named: Mapping[str, object]) -> None:
    for name in named:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "is no name: a name is a text of letters, digits, '_', '.' and '-'"
            raise ConfigError(f"{key}.{name}", name, rule=rule, why="It is a part of arms' names")


def _with_further(
    arms: Sequence[Arm],
    budgets: Mapping[str, Budget],
    refinements: Mapping[str, Refinement],
    truncations: Mapping[str, Truncation],
) -> list[Arm]:
    """Returns the arms, once more with each truncation, and all these with each other setting."""
    # arms with the same truncation share its decomposition
    weights = {name: TruncatedWeights(x) for name, x in truncations.items()}
    truncated = [
        _also(arm, name, f"with {x.truncation}", result="", truncation=x)
        for arm in arms
        for name, x in weights.items()
    ]
    sampled = [*arms, *truncated]
    forced = [
        _also(arm, name, f"within {x}", budget=x, without_budget=arm.name)
        for arm in sampled
        for name, x in budgets.items()
    ]
    refined = [
        _also(arm, name, f"by {x}", refinement=x, unrefined=arm.name)
        for arm in sampled
        for name, x in refinements.items()
    ]
    return [*sampled, *forced, *refined]


def _also(arm: Arm, name: str, told: str, **changes: Any) -> Arm:
    """Returns an arm once more, with further settings that its name and its facts tell."""
    return replace(arm, name=f"{arm.name}, {name}", facts=f"{arm.facts} {told}", **changes)


def further_facts(
    arms: Sequence[Arm], sampling: Sampling, base_sampling: Sampling
) -> dict[str, list[dict[str, Any]]]:
    """Returns the names and the settings of arms that do not answer as the model samples.

    Args:
        arms: Arms of an evaluation.
        sampling: Settings with which steered arms are sampled.
        base_sampling: Settings with which the base is sampled.

    Returns:
        Entries of `results.json`: `budgets`, each with `arm`, `without_budget` and the settings of
        the budget, and `refinements`, with `arm`, `unrefined`, `score_passes`, the number of passes
        forwards that score an answer of the arm without its refinement, and the settings of the
        refinement.
    """
    return {
        "budgets": [
            {"arm": arm.name, "without_budget": arm.without_budget, **asdict(arm.budget)}
            for arm in arms
            if arm.budget
        ],
        "refinements": [
            {
                "arm": arm.name,
                "unrefined": arm.unrefined,
                SCORE_PASSES: _score_passes(arm, base_sampling if arm.is_base else sampling),
                **asdict(arm.refinement),
            }
            for arm in arms
            if arm.refinement
        ],
    }


def _score_passes(arm: Arm, sampling: Sampling) -> int:
    """Returns how many passes find the objective of a plain sample; see `refinement_cost`."""
    assert arm.refinement is not None
    has_reward = bool(arm.refinement.reward_weight and arm.scale) and not arm.is_base
    return int(sampling.temperature != 1 or sampling.truncates) + int(has_reward)


def _left_out(
    leave_out: LeaveOut, steering: Steering, name: str
) -> Iterator[tuple[int, SteeringVectors]]:
    """Yields each layer to leave out, with the vectors of the other layers."""
    if leave_out is None:
        return
    if type(steering) is not SteeringVectors:
        raise ConfigError(
            "leave_out_layers",
            leave_out,
            rule=f"{name} holds {steering.describe()}, from which no layer can be left out",
            why="Only plain vectors have an independent vector for each layer",
            fix="Leave this option out, or compare only files of plain vectors",
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
