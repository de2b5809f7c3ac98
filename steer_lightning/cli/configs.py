"""The command `configs`: lists the configurations that come with the package, or copies one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from steer_lightning.cli.options import read_options
from steer_lightning.cli.shipped import configuration, configurations
from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import aligned, one_line
from steer_lightning.system.whole_files import write_bytes

HELP = """\
usage: steer-lightning configs                    lists the configurations of the package
       steer-lightning configs copy NAME [PATH]   writes a copy that you can edit

A name stands for its file wherever a command takes --config:
  steer-lightning fit --config quickstart
A local file with the same path takes precedence over a name."""


def run(words: Sequence[str]) -> None:
    """Runs `configs`.

    Args:
        words: The command, followed by nothing, or by `copy`, a name and optionally a path.

    Raises:
        ConfigError: For any mistake, before anything is written.
    """
    if words[1:2] in (["-h"], ["--help"]):
        print(HELP)
    elif len(words) == 1:
        print(as_text())
    elif words[1] == "copy":
        prog = "steer-lightning configs copy NAME [PATH]"
        given = _with_options(words[2:])
        written = copy(**read_options(given, copy, prog=prog, description="Writes a copy."))
        print(f"{one_line(written)} is written; edit it as you like")
    else:
        rule = "`configs` alone lists the names, and `configs copy NAME [PATH]` writes a file"
        raise ConfigError("configs", words[1], rule=rule)


def _with_options(words: Sequence[str]) -> list[str]:
    """Puts `--name` and `--path` before the first two words, unless they are options."""
    first = list(takewhile(lambda word: not word.startswith("-"), words))
    if len(first) > 2:
        raise ConfigError("configs copy", " ".join(first), rule="takes only a name and a path")
    named = [f"--{name}={word}" for name, word in zip(("name", "path"), first, strict=False)]
    return [*named, *words[len(first) :]]


def as_text() -> str:
    """Returns all names, each with the first sentence of its file."""
    rows = [(name, _summary(file)) for name, file in configurations().items()]
    return aligned(rows)


def _summary(file: Path) -> str:
    """Returns the first line of the comment at the top of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ")), "")


def copy(name: str, path: str | None = None) -> Path:
    """Writes a copy of a configuration.

    Args:
        name: Name of the configuration, as `configs` lists it.
        path: File to write, or a folder to write it into; null takes the current folder.

    Returns:
        Path of the copy.

    Raises:
        ConfigError: If there is no such configuration, or the file already exists.
    """
    file = configuration("configs copy", name)
    target = Path(path or ".").expanduser()
    target = target / file.name if target.is_dir() else target
    if target.exists():
        raise ConfigError(
            "path", str(target), rule="already exists", fix="Name another file: none is overwritten"
        )
    write_bytes(target, file.read_bytes())
    return target
