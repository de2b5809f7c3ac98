"""The models that are answered with: a base, and the base with each of several vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from steer_lightning.data import ChatTemplate, Template
from steer_lightning.data.templates import check_template
from steer_lightning.errors import ConfigError, own_keys
from steer_lightning.evaluation.arms import BASE, OWN_KEYS, base_of, check_fit
from steer_lightning.inference.flight_check import LEAST_LENGTH, why_not
from steer_lightning.model.policy import Policy
from steer_lightning.model.rotary import switch_length
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.steering import SiteVectors, SteeringVectors, find_result, load_steering
from steer_lightning.steering.row_vectors import RowSteering, steers_rows
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import is_run

LARGEST_SCALE = 100.0
"""Largest factor on vectors, in either direction."""

DEFAULT_LENGTH = 4096
"""Largest number of tokens of a prompt with its answer, unless the base has fewer positions."""


class Steered(NamedTuple):
    """What a model's name stands for."""

    vectors: SiteVectors | None
    """Vectors; None for the base."""
    scale: float
    """Factor on the vectors."""


class LoadedModels:
    """A base and the vectors of several files, by the names under which they are asked.

    The base is called `base`. Vectors are called after their file, or after the folder of their
    run; `NAME@0.5` is the model whose vectors are multiplied by 0.5.

    Args:
        vectors: Files of vectors, or folders of runs.
        base: Base model: hub id, local folder or `quickstart`; null takes the one that the files
            name.
        template: Template by which conversations are rendered; null takes the model's own chat
            template, if it has one.
        max_length: Largest number of tokens of a prompt with its answer, at least 32; null takes
            the smaller of the base's positions and 4,096.
        max_rows: Largest number of answers that are sampled at the same time.
        device: Device of the model; `auto` takes a GPU if there is one.
        dtype: Dtype of the base.
        revision: Revision of the base on the hub.
        trust_remote_code: Whether to run code that comes with the base; `base` must then be given.

    Attributes:
        vectors: Vectors by name.
        policy: Policy of the base; its weights are there after `load`.
        template: Template by which conversations are rendered; None if there is none.

    Raises:
        ConfigError: If a setting is out of range, a file is damaged or does not fit the base, or
            the base is not known or can't be found; all before the base's weights load.
    """

    def __init__(
        self,
        vectors: Sequence[str],
        base: str | None = None,
        *,
        template: Template | None = None,
        max_length: int | None = None,
        max_rows: int = 32,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if max_rows < 1:
            raise ConfigError("max_rows", max_rows, rule="must be at least 1")
        self.vectors = {name: _load(path) for name, path in names_of(vectors).items()}
        base = base or base_of(self.vectors, trust_remote_code)
        self.max_rows, self._device = max_rows, device
        with own_keys(OWN_KEYS):
            self.policy = Policy(
                base, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code
            )
            self._nothing = SteeringVectors([0], scale="none")
            check_fit({BASE: self._nothing, **self.vectors}, self.policy)
            self.template = self._template(template)
        self.policy.steering = RowSteering([self._nothing])
        self.max_length = self._most_tokens(max_length)

    def _template(self, template: Template | None) -> Template | None:
        tokenizer = self.policy.tokenizer
        if template is None and not tokenizer.chat_template:
            return None
        template = template or ChatTemplate(system=None)
        check_template(template, tokenizer)
        return template

    def _most_tokens(self, asked: int | None) -> int:
        config = self.policy.model_config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        switch = switch_length(config)
        limits = [limit for limit in (positions, switch[1] if switch else None) if limit]
        if asked is not None and asked > min(limits, default=asked):
            raise ConfigError(
                "max_length",
                asked,
                rule=f"{self.policy.base} reads texts of up to {min(limits)} tokens",
                why="It has not been trained beyond them, or reads longer texts differently",
                fix=f"Set it to {min(limits)} or less",
            )
        found = min([DEFAULT_LENGTH, *limits]) if asked is None else asked
        if found < LEAST_LENGTH:
            raise ConfigError(
                "max_length",
                found,
                rule=f"must be at least {LEAST_LENGTH}",
                why="Made-up texts of so many tokens show whether the base answers correctly",
            )
        return found

    @own_keys(OWN_KEYS)
    def load(self) -> LiveFlight:
        """Loads the base, and checks that it answers correctly; returns the flight that answers.

        Raises:
            ConfigError: If a model would not answer as a plain pass of the steered base does.
        """
        policy = self.policy
        policy.load()
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        policy.to(kind if self._device == "auto" else self._device)
        for vectors in (self._nothing, *self.vectors.values()):
            vectors.to(policy.device)
        flight = LiveFlight(
            policy, self._nothing, max_rows=self.max_rows, max_length=self.max_length
        )
        for name, found in {BASE: None, **self.vectors}.items():
            reason = why_not(flight, found or self._nothing)
            if reason is not None:
                raise ConfigError(
                    "base",
                    policy.base,
                    rule=f"{type(policy.model).__name__} does not answer correctly in batches, "
                    f"with the model {name}: {one_line(reason)}",
                    fix="Use this base in Python, with attach and generate, instead",
                )
        return flight

    @property
    def names(self) -> list[str]:
        """Names of the models, without those of other scales."""
        return [BASE, *self.vectors]

    def find(self, name: str) -> Steered:
        """Finds a model by its name.

        Raises:
            LookupError: If there is no such model; the message says which there are.
        """
        if name == BASE:
            return Steered(None, 1.0)
        if name in self.vectors:
            return Steered(self.vectors[name], 1.0)
        stem, at, factor = name.rpartition("@")
        known = ", ".join(self.names)
        if not at or stem not in self.vectors:
            hint = "; the base has no vectors to scale" if at and stem == BASE else ""
            raise LookupError(
                f"there is no model {name!r}{hint}: the models are {known}, and NAME@0.5 for "
                "vectors at another scale"
            )
        try:
            scale = float(factor)
        except ValueError:
            scale = math.nan
        if not abs(scale) <= LARGEST_SCALE:
            raise LookupError(
                f"there is no model {name!r}: the scale behind @ must be a number from "
                f"-{LARGEST_SCALE:g} to {LARGEST_SCALE:g}, such as {stem}@0.5"
            )
        return Steered(self.vectors[stem], scale)


def names_of(paths: Sequence[str]) -> dict[str, Path]:
    """Names results after their files, or after the folders of their runs.

    Names that would be equal get as many of the folders above them as tell them apart.

    Args:
        paths: Files, or folders of runs.

    Returns:
        Files by name.

    Raises:
        ConfigError: If a file is missing or named twice.
    """
    files = [find_result(path) for path in paths]
    if len(set(files)) < len(files):
        raise ConfigError("vectors", list(paths), rule="names a file twice")
    places = [_place(Path(path), file) for path, file in zip(paths, files, strict=True)]
    for count in range(1, max((len(place.parts) for place in places), default=1) + 1):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len({BASE, *names}) > len(names):
            return {one_line(name): file for name, file in zip(names, files, strict=True)}
    raise ConfigError("vectors", list(paths), rule="must have different names", fix="Rename a file")


def _place(path: Path, file: Path) -> Path:
    """Returns the path after which a result is named."""
    if path.expanduser().is_dir():
        return path.expanduser().resolve()
    file = file.resolve()
    is_of_run = file.name == SteeringVectors.file_name and is_run(file.parent)
    return file.parent if is_of_run else file.with_suffix("")


def _load(file: Path) -> SiteVectors:
    steering = load_steering(file)
    if not steers_rows(steering):
        raise ConfigError(
            "vectors",
            str(file),
            rule=f"holds {steering.describe()}, which are no vectors that are added to the stream",
            why="Answers of several models are sampled in one batch, each with its own vectors",
            fix="Name a file of vectors, or use this result in Python, with attach and generate",
        )
    return steering
