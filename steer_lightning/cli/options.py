"""Reads the words of a command into the parameters of one class or function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, takewhile
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from steer_lightning.cli.full_keys import with_whole_key
from steer_lightning.cli.messages import explain, explain_refusal
from steer_lightning.cli.short_names import short_names
from steer_lightning.errors import ConfigError
from steer_lightning.system.yaml_size import bound_yaml


def read_options(
    words: Sequence[str],
    target: Callable[..., Any],
    *,
    prog: str,
    description: str,
    positional: str | None = None,
    also: Callable[[ArgumentParser], None] | None = None,
) -> dict[str, Any]:
    """Reads the arguments of a class or function from options and YAML files.

    Args:
        words: Words that follow the command. `--help` prints and exits.
        target: Class or function whose signature and docstring define the options.
        prog: Command, such as `steer-lightning evaluate`.
        description: One sentence for `--help`.
        positional: Option that receives the words that belong to no option.
        also: Function that adds further options to the parser.

    Returns:
        Arguments and further options by name, with the objects that they describe.

    Raises:
        ConfigError: For any mistake, in one message.
    """
    words = [_with_underscores(word) for word in words]
    bound_yaml()
    usage = f"%(prog)s {positional.upper()} [options]" if positional else None
    parser = ArgumentParser(
        prog=prog, usage=usage, description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the options.")
    if isinstance(target, type):
        parser.add_class_arguments(target)
    else:
        parser.add_function_arguments(target)
    if also is not None:
        also(parser)
    options = [x.lstrip("-") for action in parser._actions for x in action.option_strings]
    try:
        words = _switched_on(words, _switches(parser))
        words = _joined(_named(words, positional) if positional else words, _lists(parser))
        with short_names():
            given = parser.parse_args(words)
            made = _made(parser, given)
    except ArgumentError as error:
        raise explain(str(error), options, words) from error
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise explain_refusal(error) from error
    return {key: value for key, value in vars(made).items() if key != "config"}


def _made(parser: ArgumentParser, given: Namespace) -> Namespace:
    """Makes the objects that the options describe.

    Raises:
        ConfigError: If one of them refuses its arguments; the error has the whole key.
    """
    try:
        made: Namespace = parser.instantiate_classes(given)
    except (ValueError, TypeError, ImportError) as error:
        refusal = error if isinstance(error, ConfigError) else explain_refusal(error)
        raise with_whole_key(refusal, given) from error.__cause__
    return made


@dataclass(frozen=True)
class _ListOption:
    """An option whose value may be a list.

    Attributes:
        of_text: Whether the items of the list are text.
        nothing_else: Whether the value can only be a list or null.
    """

    of_text: bool
    nothing_else: bool


def _lists(parser: ArgumentParser) -> dict[str, _ListOption]:
    found: dict[str, _ListOption] = {}
    for action in parser._actions:
        kind = getattr(action, "_typehint", None)
        kinds = (kind,) if get_origin(kind) is list else get_args(kind)
        others = [part for part in kinds if get_origin(part) is not list]
        for part in (part for part in kinds if get_origin(part) is list):
            option = _ListOption(get_args(part) == (str,), set(others) <= {type(None)})
            found |= dict.fromkeys(action.option_strings, option)
    return found


def _joined(words: Sequence[str], lists: Mapping[str, _ListOption]) -> list[str]:
    """Puts `--vectors a b`, a list of two, in brackets, as jsonargparse requires."""
    found: list[str] = []
    rest = list(words)
    while rest:
        found.append(rest.pop(0))
        option = lists.get(found[-1])
        values = list(takewhile(lambda word: not word.startswith("--"), rest)) if option else []
        if not option or not values or values[0].startswith("["):
            continue
        if len(values) > 1 or option.nothing_else:
            del rest[: len(values)]
            shown = map(json.dumps, values) if option.of_text else values
            found[-1] += f"=[{', '.join(shown)}]"
    return found


def _with_underscores(word: str) -> str:
    """Turns `--merge-from` into `--merge_from`: options are named after their parameters."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name[:2] == "--" else word


def _switches(parser: ArgumentParser) -> set[str]:
    """Returns the options that are true or false."""
    return {
        name
        for action in parser._actions
        if getattr(action, "_typehint", action.type) is bool
        for name in action.option_strings
    }


def _switched_on(words: Sequence[str], switches: set[str]) -> list[str]:
    """Turns `--overwrite` alone into `--overwrite=true`: jsonargparse requires the value."""
    following = [*words[1:], ""]
    return [
        f"{word}=true" if word in switches and after not in ("true", "false") else word
        for word, after in zip(words, following, strict=False)
    ]


def _named(words: Sequence[str], positional: str) -> list[str]:
    """Moves words that are neither options nor values of options behind the positional option."""
    if f"--{positional}" in words:  # the option is there, and the words after it are its value
        return list(words)
    pairs = list(zip(["", *words], words, strict=False))
    own = [not (w.startswith("-") or (b.startswith("--") and "=" not in b)) for b, w in pairs]
    values = list(compress(words, own))
    others = [word for word, is_own in zip(words, own, strict=True) if not is_own]
    return [*others, f"--{positional}", *values] if values else others
