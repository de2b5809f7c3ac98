"""Checks the YAML files on the command line, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line

LIST_OPTION = "--experiments"
"""Option of `sweep` whose file holds a list; the command reads it itself."""

KINDS = {yaml.ScalarNode: "text", yaml.SequenceNode: "a list"}


def check_yaml_files(words: Sequence[str]) -> None:
    """Refuses YAML files that hold no settings, and names the file and the line.

    jsonargparse would name neither.

    Args:
        words: Options of a command. Checked are every file after `--config`, and every file with a
            YAML suffix after any other option.

    Raises:
        ConfigError: If a file can't be read, is not valid YAML, is empty, or has no keys.
    """
    for option, value in _values(words):
        path = Path(value)
        if not value or value.startswith("-") or option == LIST_OPTION:
            continue
        named = option in ("--config", "-c") or path.suffix in (".yaml", ".yml")
        if named and path.is_dir():
            raise ConfigError(option, value, rule="is a folder", fix="Name a YAML file")
        if named and path.is_file():
            _check_file(option, path)


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields options with their values, written as one word or as two."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            yield (name, value) if equals else (name, following)


def _check_file(option: str, path: Path) -> None:
    shown = str(path)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8 text: byte {error.start + 1} can't be read"
        raise ConfigError(option, shown, rule=rule, fix="Name a YAML file") from error
    except yaml.YAMLError as error:
        raise _broken(option, shown, error) from error
    except RecursionError as error:
        raise ConfigError(option, shown, rule="is nested too deeply") from error
    if root is None:
        raise ConfigError(option, shown, rule="holds no settings", why="The file is empty")
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        rule = f"line {line}: holds {KINDS.get(type(root), 'something else')} instead of settings"
        fix = 'Settings are lines such as "seed_everything: 1", or "model:" with lines below it'
        raise ConfigError(option, shown, rule=rule, fix=fix)


def _broken(option: str, shown: str, error: yaml.YAMLError) -> ConfigError:
    """Makes the error for a file that is not valid YAML."""
    mark = getattr(error, "problem_mark", None)
    told = one_line(getattr(error, "problem", None) or error)
    context = getattr(error, "context", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if "'\\t'" in told:
        rule = f"{where}a tab is used where YAML allows only spaces"
        return ConfigError(option, shown, rule=rule, fix="Indent with spaces")
    rule = f"is not valid YAML: {where}{told}"
    return ConfigError(option, shown, rule=rule, why=one_line(context or "").capitalize())
