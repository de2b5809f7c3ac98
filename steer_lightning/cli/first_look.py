"""A first look at the settings of a command: finds all plain mistakes in about a second.

The parser imports torch, Lightning and transformers, since it needs the classes themselves, and it
stops at the first mistake. This look reads the arguments of the classes from their source. It
refuses only what the parser refuses, too, and null where a setting can't be null, which the parser
takes from a file and the class would fail on later. It leaves to the parser what it can't judge,
such as a setting that is out of range.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.cli.first_types import (
    ANY,
    NULL,
    SPEC,
    Kind,
    ListOf,
    MapOf,
    Record,
    Type,
    Types,
    is_spec,
)
from steer_lightning.cli.messages import as_typed, not_null, suggest, unknown_name
from steer_lightning.cli.short_names import ALSO_IMPORTED, CLASSES, PACKAGE, SAID
from steer_lightning.cli.signatures import Signature, Sources
from steer_lightning.errors import UNKNOWN, ConfigError, ConfigErrors
from steer_lightning.system.yaml_size import load_bounded

TRAINING = {
    "model": "steer_lightning.module.SteeringModule",
    "data": "steer_lightning.data.PromptDataModule",
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
}
OF_ALL = ("config", "print_config")
"""Options of all commands, which belong to the command line itself."""
ALSO = ("seed_everything", "ckpt_path", "weights_only", "verbose", *OF_ALL)
"""Options of the training commands that belong to no class."""
GROUPS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("fit", "validate", "test"), TRAINING),
    "evaluate": {"": "steer_lightning.evaluation.job.Evaluation"},
    "lens": {"": "steer_lightning.results.lens.job.Lens"},
    "export": {"": "steer_lightning.cli.export.export"},
    "serve": {"": "steer_lightning.endpoint.server.Endpoint"},
    "play": {"": "steer_lightning.play.server.Play"},
}
"""Classes whose arguments are the options of a command, by the group of the options."""


def look_at(words: Sequence[str]) -> None:
    """Looks at the files and options of a command.

    Args:
        words: Words of the command line, the command first.

    Raises:
        ConfigErrors: If there are several mistakes.
        ConfigError: If there is one.
    """
    groups = GROUPS.get(words[0])
    names = [word.partition("=")[0] for word in words]
    # the parser reports a stray word
    is_stray = groups is TRAINING and not "".join(words[1:2]).startswith("-")
    if groups is None or is_stray or any(x == "-h" or x.endswith("help") for x in names):
        return
    look = _Look(groups)
    for settings in _settings(words[1:], "" in groups):
        look.at_settings(settings)
    if groups is TRAINING and not any(name == "--print_config" for name in names):
        look.at_what_is_missing()
    found = {str(error): as_typed(error, words) for error in look.mistakes}
    if len(found) > 1:
        raise ConfigErrors(list(found.values()))
    for error in found.values():
        raise error


@dataclass(frozen=True)
class _Setting:
    """A setting, as a file or a word gives it."""

    key: str
    value: Any
    shown: object
    """Value to show in a message about an unknown key."""


def _settings(words: Sequence[str], with_dashes: bool) -> Iterator[list[_Setting]]:
    """Yields the settings of each file and word; skips those that can't be read."""
    for place, word in enumerate(words):
        name, is_joined, value = word[2:].partition("=")
        if not word.startswith("--"):
            continue
        values = list(takewhile(lambda x: not x.startswith("--"), words[place + 1 :]))
        name = name.replace("-", "_") if with_dashes else name
        if name == "config":
            file = Path(value if is_joined else "".join(values[:1]))
            content = loaded(file.read_text("utf-8", "replace")) if file.is_file() else None
            if isinstance(content, dict):
                yield [_Setting(str(key), x, UNKNOWN) for key, x in content.items()]
        elif is_joined:
            yield [_Setting(name, loaded(value), value)]
        elif len(values) == 1:
            yield [_Setting(name, loaded(values[0]), UNKNOWN)]
        else:
            yield [_Setting(name, UNKNOWN, UNKNOWN)]


def loaded(text: str) -> Any:
    """Parses YAML as jsonargparse does; returns a text that is not YAML unchanged."""
    try:
        return load_bounded(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


@dataclass
class _Look:
    """What is known about the settings so far."""

    groups: Mapping[str, str]
    mistakes: list[ConfigError] = field(default_factory=list)
    sources: Sources = field(default_factory=Sources)
    classes: dict[str, Signature] = field(default_factory=dict)
    """Class at each key, as set by the last file or word."""
    given: set[str] = field(default_factory=set)
    """Keys that have a value."""

    def __post_init__(self) -> None:
        self.types = Types(self.sources)
        found = {name: self.sources.signature(path) for name, path in self.groups.items()}
        self.signatures = {name: signature for name, signature in found.items() if signature}
        own = self.signatures.get("")
        self.top = [*OF_ALL, *own.parameters] if own else [*ALSO, *self.groups]

    def at_settings(self, settings: Sequence[_Setting]) -> None:
        """Looks at the settings of one file or word."""
        for setting in settings:
            first, dot, rest = setting.key.partition(".")
            if first not in self.top and not first.endswith("+"):
                self._unknown(setting.key, setting.shown)
            elif first in OF_ALL:
                continue
            elif "" in self.signatures:
                self._at_member(self.signatures[""], "", setting.key, setting)
            elif first in self.signatures and dot:
                self._at_member(self.signatures[first], f"{first}.", rest, setting)
            elif first in self.signatures and isinstance(setting.value, dict):
                self._at_members(self.signatures[first], f"{first}.", setting.value)
            elif first in self.signatures:  # the name of a file with the group's settings
                self.given |= {f"{first}.{name}" for name in self.signatures[first].parameters}

    def at_what_is_missing(self) -> None:
        """Looks for settings that have no default and are not given."""
        for group, signature in self.signatures.items():
            self._missing(signature, f"{group}.")
        self.at_what_is_missing_in_classes()

    def _missing(self, signature: Signature, prefix: str) -> None:
        for name, parameter in signature.parameters.items():
            if parameter.is_required and prefix + name not in self.given:
                fix = f"Set it with --{prefix}{name}, or in the YAML file given by --config"
                error = ConfigError(prefix + name, None, rule="must be set", fix=fix)
                self.mistakes.append(error)

    # ---- keys

    def _at_members(self, signature: Signature, prefix: str, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            setting = _Setting(f"{prefix}{name}", value, UNKNOWN)
            self._at_member(signature, prefix, str(name), setting)

    def _at_member(self, owner: Signature, prefix: str, name: str, setting: _Setting) -> None:
        """Looks at a setting whose key, after a prefix, is an argument of a class."""
        name, dot, rest = name.partition(".")
        if name.endswith("+"):  # adds to a list
            return
        if name not in owner.parameters:
            if owner.is_complete:
                self._unknown(setting.key, setting.shown, () if dot else owner.parameters)
            return
        if setting.value is None and not dot and owner.parameters[name].is_required:
            self.classes.pop(prefix + name, None)  # `at_what_is_missing` tells of it
            return
        types = self.types.of(owner.parameters[name])
        record = next((x.signature for x in types if isinstance(x, Record)), None)
        if dot and all(x.is_plain for x in types):
            self._unknown(setting.key, setting.shown)
            return
        if dot and record is not None and not any(isinstance(x, Kind) for x in types):
            if rest.partition(".")[0] not in SPEC:
                self._at_member(record, f"{prefix}{name}.", rest, setting)
            return
        self._at_value(prefix + name, _nested(rest, setting.value) if dot else setting.value, types)

    def _unknown(self, key: str, shown: object, beside: Iterable[str] = ()) -> None:
        """Records a key that is not known; a name beside it that is like its last one is meant."""
        owner, dot, last = key.rpartition(".")
        if difflib.get_close_matches(last, beside):
            fix = suggest(last, beside, owner + dot)
        else:
            known = [name for name in self.top if name not in self.signatures]
            for group, signature in self.signatures.items():
                known += self._options(signature, f"{group}." if group else "")
            fix = suggest(key, known)
        self.mistakes.append(ConfigError(key, shown, rule="there is no such option", fix=fix))

    def _options(self, owner: Signature, prefix: str) -> Iterator[str]:
        """Yields the options that correspond to the arguments of a class."""
        for name, parameter in owner.parameters.items():
            yield prefix + name
            for kind in self.types.of(parameter):
                if isinstance(kind, Record):
                    yield from self._options(kind.signature, f"{prefix}{name}.")

    # ---- values

    def _at_value(self, key: str, value: Any, types: Sequence[Type]) -> None:
        """Looks at a value that may have one of several types."""
        if value is None:
            self.classes.pop(key, None)
            if not any(x == NULL or x in ANY for x in types):
                self.mistakes.append(not_null(key, _said(types)))
            return
        self.given.add(key)
        kind = next((x for x in types if isinstance(x, Kind)), None)
        if value is UNKNOWN:
            return
        if isinstance(value, str) and any(
            x.takes(y) for x in types for y in (value, loaded(value))
        ):
            return
        if kind is not None and (isinstance(value, str) or is_spec(value)):
            record = next((x.signature for x in types if isinstance(x, Record)), None)
            self._at_class(key, value, kind, record)
        elif isinstance(value, (dict, list)):
            self._at_parts(key, value, types)
        if types and all(x.is_plain for x in types) and not any(x.takes(value) for x in types):
            rule = f"must be {_said(types)}"
            self.mistakes.append(ConfigError(key, str(value), rule=rule))

    def _at_parts(self, key: str, value: dict[Any, Any] | list[Any], types: Sequence[Type]) -> None:
        """Looks at the items of a list, or at the values of a mapping."""
        for kind in types:
            if isinstance(value, list) and isinstance(kind, ListOf):
                for item in value:
                    self._at_item(key, item, kind.inner)
            elif isinstance(value, dict) and isinstance(kind, Record) and not is_spec(value):
                self._at_members(kind.signature, f"{key}.", value)
            elif isinstance(value, dict) and isinstance(kind, MapOf):
                for name, item in value.items():
                    self._at_value(f"{key}.{name}", item, kind.inner)

    def _at_item(self, key: str, item: Any, types: Sequence[Type]) -> None:
        """Looks at an item of a list; its classes are kept apart from those of other items."""
        inner = _Look(self.groups, sources=self.sources)
        inner._at_value(key, item, types)
        inner.at_what_is_missing_in_classes()
        self.mistakes += inner.mistakes

    def at_what_is_missing_in_classes(self) -> None:
        """Looks for arguments without a default in the classes that are named."""
        for key, signature in self.classes.items():
            if signature.name.startswith(f"{PACKAGE}.") and signature.is_complete:
                self._missing(signature, f"{key}.init_args.")

    def _at_class(self, key: str, value: Any, kind: Kind, default: Signature | None) -> None:
        """Looks at the name of a class and at its arguments."""
        name = value if isinstance(value, str) else value.get("class_path")
        arguments = {} if isinstance(value, str) else value.get("init_args") or {}
        if name is None:
            signature = self.classes.get(key, default)
        else:
            signature = self._signature(key, str(name), kind)
            self.classes.pop(key, None)
        if signature is None or not isinstance(arguments, dict):
            return
        if kind.name not in ALSO_IMPORTED:  # those classes get further arguments from elsewhere
            self.classes[key] = signature
        for argument, item in arguments.items():
            if argument in signature.parameters:
                types = self.types.of(signature.parameters[argument])
                self._at_value(f"{key}.init_args.{argument}", item, types)
            elif signature.is_complete:
                rule = f"{signature.name} has no such argument"
                fix = suggest(str(argument), signature.parameters)
                place = f"{key}.init_args.{argument}"
                self.mistakes.append(ConfigError(place, UNKNOWN, rule=rule, fix=fix))

    def _signature(self, key: str, name: str, kind: Kind) -> Signature | None:
        """Finds the class of a name, and records a mistake if there is none."""
        if Path(name).is_file():  # the file holds the class and its arguments
            return None
        if "." not in name:
            full_name = CLASSES[kind.name].get(name)
            if full_name is None and kind.name not in ALSO_IMPORTED:
                said = SAID.get(kind.name, kind.name)
                self.mistakes.append(unknown_name(key, name, said, CLASSES[kind.name]))
            return self.sources.signature(full_name) if full_name else None
        module, _, last = name.rpartition(".")
        if f"{module}.".startswith(f"{PACKAGE}.") and self.sources.tree(module) is not None:
            known = [x for x in CLASSES[kind.name].values() if x.startswith(f"{module}.")]
            if self.sources.find(module, last) is None and known:
                rule = f"module {module} has no {last}"
                self.mistakes.append(ConfigError(key, name, rule=rule, fix=suggest(name, known)))
        return self.sources.signature(name)


def _said(types: Sequence[Type]) -> str:
    """Returns the values that fit, in words; empty if not all types have words for them."""
    said = [x.said for x in types if x != NULL]
    return " or ".join(dict.fromkeys(said)) if all(said) else ""


def _nested(rest: str, value: Any) -> Any:
    """Returns the value of `--key.rest value` in the form that YAML has at `key`."""
    name, dot, further = rest.partition(".")
    if name == "class_path":
        return {"class_path": value}
    if name == "init_args" and dot:
        name, dot, further = further.partition(".")
    return {"init_args": {name: _nested(further, value) if dot else value}}
