"""The command `vectors`, which shows, combines and uploads files of vectors."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_lightning.cli.options import read_options
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.printable import one_line

if TYPE_CHECKING:
    from steer_lightning.steering import SteeringVectors

log = logging.getLogger(__name__)


def run(words: Sequence[str]) -> None:
    """Runs a verb of `vectors`.

    Args:
        words: Command, verb, files and options.

    Raises:
        ConfigError: For any mistake, before anything is written.
    """
    if len(words) < 2 or words[1] in ("-h", "--help"):
        print(help_text())
        return
    verb = words[1]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        fix = f"Did you mean {close[0]}?" if close else f"The verbs are {', '.join(VERBS)}"
        raise ConfigError("vectors", verb, rule="there is no such verb", fix=fix)
    act = VERBS[verb]
    files = _files(words[2:])
    options = list(words[2 + len(files) :])
    if files:
        options.insert(0, f"--files={json.dumps(files)}")
    prog = f"steer-lightning vectors {verb} FILE ..."
    act(**read_options(options, act, prog=prog, description=_summary(act)))


def help_text() -> str:
    """Returns the text of `steer-lightning vectors --help`."""
    width = max(map(len, VERBS))
    lines = [
        f"  {verb:<{width}}  {str(act.__doc__).splitlines()[0]}" for verb, act in VERBS.items()
    ]
    return "\n".join(
        [
            "usage: steer-lightning vectors VERB FILE ... [options]",
            "",
            "verbs:",
            *lines,
            "",
            "steer-lightning vectors VERB --help  lists a verb's options",
        ]
    )


def _summary(act: Callable[..., None]) -> str:
    return str(act.__doc__).splitlines()[0]


def _files(words: Sequence[str]) -> list[str]:
    """Returns the words before the first option."""
    first = next((k for k, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:first])


def info(files: list[str]) -> None:
    """Shows what files of vectors contain.

    Args:
        files: Files of vectors.
    """
    print("\n\n".join(describe(path, vectors) for path, vectors in _load(files).items()))


def scale(files: list[str], factor: float, output: str, overwrite: bool = False) -> None:
    """Multiplies all vectors of a file by a factor.

    Args:
        files: One file of vectors.
        factor: Any finite number; a negative factor reverses the direction of the steering.
        output: File to write.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.steering.arithmetic import scaled

    _save(scaled(_one(files), factor), output, overwrite)


def add(
    files: list[str], output: str, weights: list[float] | None = None, overwrite: bool = False
) -> None:
    """Adds the vectors of several files; a layer that a file does not steer counts as zero.

    Args:
        files: Two or more files of vectors, with the same width and number of decoder layers.
        output: File to write.
        weights: Factor for each file; null takes 1.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.steering.arithmetic import summed

    _save(summed(_several(files), weights), output, overwrite)


def average(files: list[str], output: str, overwrite: bool = False) -> None:
    """Averages the vectors of several files; a layer that a file does not steer counts as zero.

    Args:
        files: Two or more files of vectors, with the same width and number of decoder layers.
        output: File to write.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.steering.arithmetic import averaged

    _save(averaged(_several(files)), output, overwrite)


def slice_layers(
    files: list[str], layers: list[int] | str, output: str, overwrite: bool = False
) -> None:
    """Keeps only the vectors of some layers.

    Args:
        files: One file of vectors.
        layers: Layers to keep: `"8-15"`, which includes both ends, `"8"`, or `[8, 9]`.
        output: File to write.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.steering.arithmetic import sliced

    _save(sliced(_one(files), layers), output, overwrite)


def quantise(
    files: list[str], bits: int, output: str, keep: float = 1.0, overwrite: bool = False
) -> None:
    """Rounds the vectors of a file to few bits, and counts the bits that describe them.

    Args:
        files: One file of vectors.
        bits: Bits of each number that is kept: 1 to 16, or 32 for the float32 numbers themselves.
            Each layer has one step size; with 1 bit, signs and one size remain.
        output: File to write. Its vectors are float32 again, so that every command reads it.
        keep: Share of each layer's numbers to keep, those of largest magnitude; the others become
            0.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.steering.arithmetic import description_of, quantised

    vectors = _one(files)
    found = quantised(vectors, bits, keep)
    _save(found, output, overwrite)
    lengths = asdict(description_of(vectors, bits, keep))
    parts = ", ".join(f"{name} {count:,}" for name, count in lengths.items())
    whole = vectors.vectors.detach()
    error = float((found.vectors - whole).norm() / whole.norm()) if bool(whole.any()) else 0.0
    print(f"\nbits      {one_line(parts)}")
    print(f"error     {100 * error:.3g} % of the norm of the vectors")


def transplant(
    files: list[str],
    base: str,
    output: str,
    map: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> None:
    """Assigns the vectors to another model of the same family and width.

    Args:
        files: One file of vectors.
        base: Hub id, local folder or `quickstart`; only the base's configuration is read.
        output: File to write.
        map: For a base of another depth, such as one with layers repeated or left out: for each of
            its layers the one whose vector it takes, or `-` for none, as in `0,1,2,2,3`.
        revision: Branch, tag or commit of the base on the hub.
        overwrite: Whether to replace an existing file.
    """
    from steer_lightning.results.export.base import Base
    from steer_lightning.steering.arithmetic import transplanted

    vectors = _one(files)
    shape = Base(base, revision, key="base").shape
    _save(transplanted(vectors, base, *shape, revision, map), output, overwrite)


def push(files: list[str], to: str, private: bool = False, overwrite: bool = False) -> None:
    """Uploads a run's vectors to the hub, with a model card.

    Args:
        files: Folder of one run.
        to: Repository, as USER/NAME; it is created if it does not exist.
        private: Whether a new repository is private; otherwise the hub's default applies.
        overwrite: Whether to add a commit to a repository that already contains vectors.
    """
    from steer_lightning.results.publish import push_to_hub

    if len(files) != 1:
        raise ConfigError("files", files, rule="must be one folder of a run")
    print(one_line(push_to_hub(files[0], to, private=private or None, overwrite=overwrite)))


VERBS: dict[str, Callable[..., None]] = {
    "info": info,
    "scale": scale,
    "add": add,
    "average": average,
    "slice": slice_layers,
    "quantise": quantise,
    "transplant": transplant,
    "push": push,
}


def describe(path: str, vectors: SteeringVectors) -> str:
    """Shows the vectors of a file as a table with one line for each layer.

    Args:
        path: Path of the file, for the title.
        vectors: Contents of the file.
    """
    facts = vectors.metadata
    plain = vectors.vectors.detach()
    norms = plain.norm(dim=1)
    behind = vectors.site == "layer_output"
    place = f"{'after' if behind else 'in'} each layer ({vectors.site})"
    place += "" if vectors.tokens == "all" else f", only for {vectors.tokens} tokens"
    bits = facts.get("base_bits")
    rows = [
        f"base      {facts.get('base_model') or '?'}{f', in {bits} bits' if bits else ''}",
        f"revision  {facts.get('revision') or '-'}",
        f"step      {facts.get('step') or '-'}",
        f"layers    {len(vectors.layers)} of {vectors.num_layers}, width {vectors.width}: "
        f"{vectors.num_trained:,} numbers",
        f"added     {place}, format version {facts.get('format_version')}",
        *_quantised(facts),
        "",
        "layer      norm       rms   largest",
    ]
    for layer, row, norm in zip(vectors.layers, plain, norms, strict=True):
        rms = float(norm) / vectors.width**0.5
        rows.append(f"{layer:>5}{float(norm):>10.4g}{rms:>10.4g}{float(row.abs().max()):>10.4g}")
    return "\n".join(map(one_line, (path, *rows)))


def _quantised(facts: Mapping[str, Any]) -> list[str]:
    """Returns the line about quantised vectors; the texts may be of a stranger's file."""
    if "description_bits" not in facts:
        return []
    each = f"{facts.get('bits', '?')} for each number that is kept"
    share = f"share kept {facts.get('keep', '?')}"
    return [f"quantised {facts['description_bits']} bits in all, {each}; {share}"]


def _load(files: Sequence[str]) -> dict[str, SteeringVectors]:
    from steer_lightning.steering import find_vectors, load_vectors

    if not files:
        raise ConfigError("files", UNKNOWN, rule="must name a file of vectors")
    return {path: load_vectors(find_vectors(path)) for path in files}


def _one(files: Sequence[str]) -> SteeringVectors:
    if len(files) != 1:
        raise ConfigError("files", list(files), rule="must be one file")
    return _load(files)[files[0]]


def _several(files: Sequence[str]) -> list[SteeringVectors]:
    if len(files) < 2:
        raise ConfigError("files", list(files), rule="must be at least two files")
    found = _load(files)
    bases = {one.metadata.get("base_model") or "an unknown base": None for one in found.values()}
    if len(bases) > 1:
        told = "these files were trained on %s; the new file names no base"
        log.warning(told, one_line(" and ".join(bases)))
    return [found[path] for path in files]


def _save(vectors: SteeringVectors, output: str, overwrite: bool) -> None:
    from steer_lightning.steering.arithmetic import QUANTISED
    from steer_lightning.steering.base import BASE_BITS
    from steer_lightning.steering.vectors_file import VectorsFile, write_vectors_file

    if Path(output).exists() and not overwrite:
        raise ConfigError(
            "output", output, rule="already exists", fix="Name another file, or set --overwrite"
        )
    facts: dict[str, Any] = vectors.metadata
    step = facts.get("step", "")
    told = {
        "base_model": facts.get("base_model", ""),
        "revision": facts.get("revision", ""),
        "step": step if step.isdecimal() else "",
        **{key: facts[key] for key in (*QUANTISED, BASE_BITS) if key in facts},
    }
    content = VectorsFile(
        kind=vectors.saved_as,
        site=vectors.site,
        tokens=vectors.tokens,
        layers=vectors.layers,
        num_layers=vectors.num_layers,
        width=vectors.width,
        tensors=vectors.result(),
        metadata=told,
    )
    write_vectors_file(Path(output), content)
    print(describe(output, vectors))
