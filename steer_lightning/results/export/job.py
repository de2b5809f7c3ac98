"""The export job, which makes a folder that is whole, compared with the base, and documented."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.results.export.base import KEY, Base
from steer_lightning.results.export.formats import FORMATS, Format, Plan
from steer_lightning.results.export.proofs import Findings
from steer_lightning.steering import (
    SteeringVectors,
    find_vectors,
    load_vectors,
    warn_of_another_base,
)
from steer_lightning.steering.arithmetic import scaled
from steer_lightning.system.whole_files import folder_written_aside

MARK = "export.json"
"""File that marks a folder as an export; no other folder is ever overwritten."""

PACKAGES = ("steer-lightning", "torch", "transformers", "safetensors", "peft", "gguf")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an export.

    Attributes:
        folder: Folder of the export.
        size: Size of its files, in bytes.
        lack: What the export lacks compared with the steered base, and the effect; empty if it
            lacks nothing.
        findings: Findings of the comparison; None if it was skipped.
        usage: Explanation of how to use the export, in Markdown.
    """

    folder: Path
    size: int
    lack: str
    findings: Findings | None
    usage: str


def export_vectors(
    vectors: str | Path | SteeringVectors,
    *,
    to: str,
    output: str | Path,
    merge_from: str | None = None,
    revision: str | None = None,
    scale: float = 1.0,
    overwrite: bool = False,
    verify: bool = True,
) -> Report:
    """Writes vectors in a format of other tools, reads them back, and compares them.

    Args:
        vectors: File of vectors, or loaded vectors.
        to: Format of the export, a key of `FORMATS`.
        output: Folder to create.
        merge_from: Hub id or folder of the base; None takes the base that the vectors name.
        revision: Revision of the base on the hub; None takes the one that the vectors name with
            their base.
        scale: Factor by which all vectors are multiplied.
        overwrite: Whether to replace an earlier export in the folder.
        verify: Whether to compare the export with the steered base.

    Raises:
        ConfigError: If the format can't hold the vectors exactly, they do not fit the base, the
            folder is taken, or the export differs from the steered base. Nothing is left behind.
    """
    target = Path(output)
    form = _format(to)
    check_output(target, overwrite)
    if not isinstance(vectors, SteeringVectors):
        vectors = load_vectors(find_vectors(vectors))
    _check_place(vectors)
    base = _find_base(vectors, merge_from, revision)
    _check_fit(vectors, base)
    warn_of_another_base(vectors, base.name)
    plain = scaled(vectors, scale)
    plain.metadata.clear()  # prevents further warnings of another base
    plan = Plan(base=base, vectors=plain, output=target)
    form.check(plan)
    if verify:
        _check_tokenizer(base)
    with folder_written_aside(target) as folder:
        form.write(plan, folder)
        findings = form.compare(plan, folder) if verify else None
        held = tuple(layer for layer in vectors.layers if layer not in form.lacks)
        usage, lack = form.usage(plan), _lack(plan.vectors, held, findings)
        made = _made(plan, vectors, held, f"times {scale:g}; format `{to}`")
        (folder / "README.md").write_text(_readme(plan, made, lack, findings, usage))
        facts = _facts(plan, vectors, to, scale, findings) | {"layers": held}
        (folder / MARK).write_text(json.dumps(facts, indent=2) + "\n")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Report(folder=target, size=size, lack=lack, findings=findings, usage=usage)


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises a ConfigError if a folder can't be written, or contains files that must be kept."""
    if folder.is_file():
        raise ConfigError("output", str(folder), rule="is a file", fix="Name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / MARK).is_file():
        rule = "already exists and holds no export, so it is not overwritten"
        raise ConfigError("output", str(folder), rule=rule, fix="Name another folder")
    if not overwrite:
        raise ConfigError(
            "output",
            str(folder),
            rule="already holds an export",
            fix="Name another folder, or set --overwrite",
        )


def _format(to: str) -> Format:
    if to not in FORMATS:
        raise ConfigError("to", to, rule=f"must be one of {', '.join(FORMATS)}")
    return FORMATS[to]


def _find_base(vectors: SteeringVectors, merge_from: str | None, revision: str | None) -> Base:
    named = vectors.metadata.get("base_model")
    if not (merge_from or named):
        raise ConfigError(KEY, None, rule="must be given", why="The vectors name no base")
    if merge_from is None or merge_from == named:
        revision = revision or vectors.metadata.get("revision") or None
    return Base(merge_from or str(named), revision)


def _check_tokenizer(base: Base) -> None:
    """Raises a ConfigError if the comparison's texts can't be tokenized, before anything loads."""
    try:
        base.tokenizer()
    except ConfigError as error:
        fix = f"{error.fix}; or skip the comparison with --verify=false"
        raise ConfigError(
            error.key, error.value, rule=error.rule, why=error.why, fix=fix
        ) from error


def _check_place(vectors: SteeringVectors) -> None:
    place = vectors.saved_as, vectors.site, vectors.tokens
    if place != (SteeringVectors.__name__, "layer_output", "all"):
        raise ConfigError(
            "vectors",
            f"{place[0]} at {place[1]} for {place[2]} tokens",
            rule="must be SteeringVectors at the output of layers for all tokens",
            why="The formats can hold nothing else",
            fix="Use steer_lightning.attach in Python",
        )


def _check_fit(vectors: SteeringVectors, base: Base) -> None:
    layers, width = base.shape
    if (vectors.num_layers, vectors.width) != (layers, width):
        trained = vectors.metadata.get("base_model") or "another model"
        raise ConfigError(
            "vectors",
            f"{vectors.num_layers} decoder layers of width {vectors.width}",
            rule=f"{base.name} has {layers} of width {width}",
            why=f"These vectors were trained on {trained}",
            fix="Set --merge-from to that model, or use vectors of this one",
        )


def _lack(vectors: SteeringVectors, held: Sequence[int], findings: Findings | None) -> str:
    """Says which layers an export lacks, and how far that takes it from the steered base."""
    rows = zip(vectors.layers, vectors.vectors.detach(), strict=True)
    missing = [layer for layer, row in rows if layer not in held and bool(row.any())]
    if not missing:
        return ""
    told = f"not the same as the steered base: without the vector of {_layers(missing)}"
    if findings is None:
        return told
    found = findings.facts["float32"]
    return (
        f"{told}, the greedy choice equal at {found['num_equal']} of {found['num_tokens']} tokens"
    )


def _layers(numbers: Sequence[int]) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _made(plan: Plan, vectors: SteeringVectors, held: Sequence[int], how: str) -> str:
    """Says in a sentence what an export contains."""
    step = vectors.metadata.get("step")
    after = f" after {step} steps" if step else ""
    return (
        f"Steering vectors of steer-lightning for {plan.base.name}{after}, {_layers(held)}, {how}."
    )


def _readme(plan: Plan, made: str, lack: str, findings: Findings | None, usage: str) -> str:
    lines = findings.lines if findings else ["Not compared."]
    return "\n".join(
        [
            f"# {plan.output.name}",
            "",
            made,
            *(["", f"**This export is {lack}.**"] if lack else []),
            "",
            usage,
            "Compared with the steered base on four texts and their greedy continuations:",
            "",
            "```text",
            *lines,
            "```",
            "",
        ]
    )


def _facts(
    plan: Plan, vectors: SteeringVectors, to: str, scale: float, findings: Findings | None
) -> dict[str, Any]:
    return {
        "format": to,
        "base": plan.base.name,
        "revision": plan.base.revision,
        "scale": scale,
        "vectors": vectors.metadata,
        "compared": findings.facts if findings else None,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # the package is an extra that this format does not need
        return None
