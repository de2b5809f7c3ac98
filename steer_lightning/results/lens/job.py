"""Describes the vectors of one file or several files, as the command `lens` does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch

from steer_lightning.data import ChatTemplate, PlainTemplate, Template, make_prompts
from steer_lightning.data.prompts import load_problems
from steer_lightning.errors import ConfigError, own_keys
from steer_lightning.evaluation.arms import OWN_KEYS, base_of, check_fit, load_files
from steer_lightning.model.policy import Policy
from steer_lightning.results.lens.finite import check_finite
from steer_lightning.results.lens.geometry import cosines
from steer_lightning.results.lens.inside import check_inside, look_inside
from steer_lightning.results.lens.look import Look, check_unembedding, describe
from steer_lightning.steering import SiteVectors, Steering, find_result
from steer_lightning.system.run_files import (
    BETWEEN,
    BETWEEN_PICTURE,
    INSIDE_PICTURE,
    LENS,
    LENS_FOLDER,
    LENS_PICTURE,
)
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.types import Problem, Prompt, Source

MADE_OF_IT = (LENS_PICTURE, INSIDE_PICTURE, BETWEEN, BETWEEN_PICTURE)
"""Files beside `lens.json`, which not every look makes."""


class Problems:
    """A source of a few questions that are already in memory.

    Args:
        problems: Questions.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)

    def load(self) -> list[Problem]:
        """Returns the questions."""
        return self.problems


class Lens:
    """Describes what vectors do, and writes the description as JSON.

    Args:
        vectors: File of vectors, or folder of a run, or several of these.
        base: Hub id, local folder or `quickstart`; null takes the base that the file of vectors
            names.
        final_norm: Whether vectors first pass through the norm before the unembedding: through its
            weight, not through its division by the size of the stream.
        num_tokens: Number of tokens in each list.
        prompts: Source of problems on which the stream and the first generated token are measured.
            If this and `texts` are null, neither is measured.
        texts: Texts on which the same is measured; the model reads them unchanged.
        inside: Whether to measure on these texts what the next attention and the next MLP make of
            each vector, which reads each text once more for each vector; see `look_inside`.
        template: Template that turns the problems of the source into prompts; default
            `ChatTemplate`.
        num_prompts: Number of problems to take from the start of the source.
        max_prompt_tokens: Largest number of tokens in a prompt; longer prompts are dropped.
        output: Folder for the results; null takes `lens` beside the first file of vectors.
        overwrite: Whether to replace the results of an earlier look in that folder.
        device: Device of the base; `auto` takes a GPU if there is one.
        dtype: Data type of the base.
        revision: Branch, tag or commit of the base on the hub.
        trust_remote_code: Whether to run code that comes with the base; `base` must then be given.

    Raises:
        ConfigError: If a setting is out of range, files do not fit the base, or something would be
            overwritten; raised before the base is loaded.

    Attributes:
        folder: Folder for the results.
        folders: Folder for the results of each file, by the file's name.
    """

    def __init__(
        self,
        vectors: str | list[str],
        base: str | None = None,
        final_norm: bool = False,
        num_tokens: int = 10,
        prompts: Source | None = None,
        texts: list[str] | None = None,
        inside: bool = False,
        template: Template | None = None,
        num_prompts: int = 16,
        max_prompt_tokens: int = 1024,
        output: str | None = None,
        overwrite: bool = False,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        for key, value in (("num_prompts", num_prompts), ("max_prompt_tokens", max_prompt_tokens)):
            if value < 1:
                raise ConfigError(key, value, rule="must be at least 1")
        if prompts is not None and texts is not None:
            raise ConfigError("texts", texts, rule="can't be given together with prompts")
        self.look = Look(num_tokens=num_tokens, final_norm=final_norm)
        self.device, self.inside = device, inside
        paths = [vectors] if isinstance(vectors, str) else vectors
        if not paths:
            raise ConfigError("vectors", vectors, rule="must name at least one file")
        self.files = {name: _vectors(name, found) for name, found in load_files(paths).items()}
        folder = Path(output) if output else find_result(paths[0]).parent / LENS_FOLDER
        self.folder = folder
        self.folders = _folders(folder, list(self.files))
        if not overwrite:
            _refuse_to_overwrite([folder, *self.folders.values()])
        with own_keys(OWN_KEYS):
            self.policy = Policy(
                base or base_of(self.files, trust_remote_code),
                revision=revision,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
            check_fit(self.files, self.policy)
            self.prompts = self._prompts(prompts, texts, template, num_prompts, max_prompt_tokens)
        if inside:
            check_inside(self.prompts, self.files)

    def _prompts(
        self,
        source: Source | None,
        texts: Sequence[str] | None,
        template: Template | None,
        count: int,
        max_tokens: int,
    ) -> list[Prompt]:
        if texts is not None:
            problems = [Problem(question=text, answer="") for text in texts]
            template = PlainTemplate("{question}")
        elif source is not None:
            problems = load_problems(source, "prompts")[:count]
            template = template or ChatTemplate()
        else:
            return []
        found = make_prompts(Problems(problems), template, self.policy.tokenizer, max_tokens)
        self.policy.check_prompts(found, 1, "max_prompt_tokens")
        return found

    @own_keys(OWN_KEYS)
    def run(self) -> dict[str, dict[str, Any]]:
        """Looks at each file, and writes its `lens.json`; for several, also `between.json`.

        Returns:
            The content of each `lens.json`, by the name of its file of vectors.

        Raises:
            ConfigError: If a number is not finite; then nothing is written.
        """
        self.policy.load()
        check_unembedding(self.policy)
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        self.policy.to(kind if self.device == "auto" else self.device)
        found = {name: self._describe(vectors) for name, vectors in self.files.items()}
        for folder in (self.folder, *self.folders.values()):
            for made in MADE_OF_IT:  # of an earlier look, which this one may not make again
                (folder / made).unlink(missing_ok=True)
        for name, description in found.items():
            check_finite(name, description)
        for name, description in found.items():
            _write(self.folders[name] / LENS, description)
        if len(self.files) > 1:
            _write(self.folder / BETWEEN, {"pairs": self.pairs()})
        return found

    def _describe(self, vectors: SiteVectors) -> dict[str, Any]:
        self.policy.steer(vectors)
        step = vectors.metadata.get("step", "")
        found = describe(
            self.policy, vectors, self.prompts, self.look, int(step) if step.isdecimal() else None
        )
        if self.inside:
            found["inside"] = look_inside(self.policy, vectors, self.prompts, self.look)
        return found

    def pairs(self) -> list[dict[str, Any]]:
        """Computes the cosines between the vectors of each pair of files."""
        return [
            {
                "a": one,
                "b": other,
                "layers_a": list(ours.layers),
                "layers_b": list(theirs.layers),
                "cosines": cosines(ours.vectors.cpu(), theirs.vectors.cpu()).tolist(),
            }
            for (one, ours), (other, theirs) in combinations(self.files.items(), 2)
        ]


def _vectors(name: str, found: Steering) -> SiteVectors:
    if not isinstance(found, SiteVectors):
        raise ConfigError(
            "vectors",
            name,
            rule=f"holds {found.describe()}",
            why="The lens shows only vectors, one for each layer, in the model's stream",
        )
    return found


def _folders(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Returns the folder for each file's results; each of several files has its own folder."""
    if len(names) == 1:
        return {names[0]: folder}
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
    if len(set(plain)) < len(plain) or not all(plain):
        plain = [f"file-{number}" for number in range(1, 1 + len(names))]
    return {name: folder / part for name, part in zip(names, plain, strict=True)}


def _refuse_to_overwrite(folders: Sequence[Path]) -> None:
    for folder in folders:
        for name in (LENS, *MADE_OF_IT):
            if (folder / name).exists():
                raise ConfigError(
                    "output",
                    str(folder),
                    rule=f"already holds {name}",
                    fix="Name another folder, or set --overwrite",
                )


def _write(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content) + "\n").encode())
