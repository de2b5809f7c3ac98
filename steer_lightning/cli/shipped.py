"""Files that come with the package, among them configurations that are known by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from steer_lightning.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
OPTIONS = ("--config", "-c", "--experiments")


def shipped_folder(name: str) -> Path:
    """Returns a folder that comes with the package.

    In a wheel, the folder is inside the package. In a clone, from which an editable install reads,
    it is next to the package.

    Args:
        name: `configs`, or `project`, which holds the files of a new project.
    """
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def configurations() -> dict[str, Path]:
    """Returns the configurations that come with the package, by name.

    A name is the file's path below `configs`, without `.yaml`, such as `gsm8k/qwen2.5-1.5b`. The
    cluster scripts in the same folders keep their suffix.
    """
    folder = shipped_folder("configs")
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".sh"))
    return {file.relative_to(folder).as_posix().removesuffix(".yaml"): file for file in files}


def configuration(key: str, name: str) -> Path:
    """Returns the file of a configuration that comes with the package.

    Args:
        key: Word of the command line that the name belongs to.
        name: Name of the configuration.

    Raises:
        ConfigError: If there is no configuration of that name.
    """
    known = configurations()
    if name in known:
        return known[name]
    bare = name.removeprefix("configs/").removesuffix(".yaml")
    close = [bare] if bare in known else difflib.get_close_matches(bare, known, n=3)
    also = "there is no such file, and " if key in OPTIONS else ""
    raise ConfigError(
        key,
        name,
        rule=f"{also}no configuration of this name comes with the package",
        fix=f"Did you mean {' or '.join(close)}?"
        if close
        else "`steer-lightning configs` lists them",
    )


def with_files(words: Sequence[str]) -> list[str]:
    """Replaces names of shipped files after `--config` or `--experiments` by their paths.

    A local file takes precedence if its path is exactly the given word.

    Args:
        words: Words of the command line.

    Raises:
        ConfigError: If there is neither such a file nor a configuration of that name.
    """
    found: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option in OPTIONS:
            found.append(f"{option}={_file(option, value)}")
        else:
            is_file = bool(found) and found[-1] in OPTIONS
            found.append(_file(found[-1], word) if is_file else word)
    return found


def _file(option: str, value: str) -> str:
    path = os.path.expanduser(value)
    is_local = os.path.exists(path) and not os.path.isdir(path)
    is_text = value == "-" or any(sign in value for sign in ":{\n")  # standard input, or YAML
    return value if is_local or is_text else str(configuration(option, value))
