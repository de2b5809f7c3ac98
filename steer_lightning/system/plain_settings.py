"""Describes the settings of plug-ins as plain values, and compares those of two runs."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from steer_lightning.errors import ConfigError

PLAIN = (bool, int, float, str, type(None))
DEPTH = 4
PACKAGE = __name__.partition(".")[0]
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe(value: Any, depth: int = DEPTH) -> Any:
    """Describes an object by its class and its public attributes.

    Args:
        value: Plain value, function or object, as a configuration gives it.
        depth: Number of levels of objects within objects to describe; below them, only the class is
            named.

    Returns:
        A number, a text, None, or lists and dictionaries of these.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item, depth) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item, depth) for key, item in value.items()}
    if isinstance(value, re.Pattern):
        return value.pattern
    name = getattr(value, "__name__", None)  # functions and classes have one
    if name is not None:
        return name
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    if not public or not depth:
        return type(value).__name__
    attributes = {key: describe(item, depth - 1) for key, item in public.items()}
    return {"class": type(value).__name__, **attributes}


def describe_all(value: Any, depth: int = DEPTH) -> Any:
    """Describes an object by all that tells what it does, also if it is code of the user.

    Beside the public attributes of `describe`, these are the private ones, the source of functions
    and classes that come from elsewhere, the variables that a function keeps from where it was
    defined, and objects of the standard library as they represent themselves.

    Args:
        value: Plain value, function or object.
        depth: Number of levels of objects within objects to describe.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [describe_all(item, depth) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe_all(item, depth) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(repr(describe_all(item, depth)) for item in value)
    if isinstance(value, partial):
        return [describe_all(x, depth) for x in (value.func, value.args, value.keywords)]
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if isinstance(value, type) or inspect.isroutine(value):
        return _code_of(value, depth)
    attributes = getattr(value, "__dict__", {})
    # what lies inside of a logger or a module is no setting
    if not attributes or _package_of(type(value)) in sys.stdlib_module_names:
        return ADDRESS.sub("", repr(value))
    if not depth:
        return type(value).__name__
    code = _code_of(type(value), depth)
    named = code if isinstance(code, dict) else {"name": code}
    inner = {key: describe_all(item, depth - 1) for key, item in attributes.items()}
    return {"class": named.pop("name"), **named, **inner}


def _code_of(value: Any, depth: int) -> Any:
    """Describes a function or class by its name, and by its source if it is not of this package."""
    kept = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    parts = value.__mro__ if isinstance(value, type) else (value,)
    sources = [_source(part) for part in parts]
    found = {"name": value.__name__}
    if any(sources):
        found["source"] = hashlib.sha256("".join(sources).encode("utf-8", "replace")).hexdigest()
    if kept and depth:
        found["closure"] = describe_all(kept, depth - 1)
    return found if len(found) > 1 else value.__name__


def _source(value: Any) -> str:
    """Returns the source of a function or class; empty for this package, and for compiled code."""
    if _package_of(value) == PACKAGE:
        return ""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # defined in a console, or compiled
        return ""


def _package_of(value: Any) -> str:
    return str(getattr(value, "__module__", None) or "").partition(".")[0]


def init_args(plugin: Any, depth: int = 1) -> dict[str, Any]:
    """Returns the settings of a plug-in: arguments of its class that it keeps under their names.

    What it makes by itself, such as counters, caches and clients, is no setting.

    Args:
        plugin: Object or function; a function has no settings.
        depth: Number of levels of objects among the arguments whose settings are returned, too;
            below them, only the class is named.
    """
    kept = getattr(plugin, "__dict__", {})
    names: set[str] = set()
    for kind in type(plugin).__mro__ if kept else ():
        names |= set(inspect.signature(kind.__init__).parameters)  # type: ignore[misc]
    found: dict[str, Any] = {}
    for name in sorted(names & kept.keys()):
        value = kept[name]
        inner = init_args(value, depth - 1) if depth else {}
        found[name] = {"class": type(value).__name__, **inner} if inner else describe(value, 0)
    return found


def flat(settings: Any, key: str = "", *, lists: bool = False) -> dict[str, Any]:
    """Returns settings by their whole keys, as they are set on the command line.

    Args:
        settings: Settings; an empty mapping is a setting of its own.
        key: Key of all of them.
        lists: Whether mappings in a list are settings of their own, such as
            `trainer.callbacks.0.init_args.every_n_steps`; other lists stay unchanged.
    """
    if lists and isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        settings = dict(enumerate(settings))
    if not isinstance(settings, dict) or not settings:
        return {key: settings}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{key}.{name}" if key else str(name), lists=lists)
    return found


def check_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, told: str, why: str, fix: str
) -> None:
    """Raises a ConfigError for the first setting that differs, with both of its values.

    A tuple equals a list of the same items, since checkpoints and YAML have lists for tuples.

    Args:
        saved: Settings of the other side, by configuration key; a missing key counts as None.
        now: Settings of this side; its keys are compared, in their order.
        told: Text before the other side's value, such as `the checkpoint was made with`.
        why: Why the two must be the same.
        fix: What to do about it.
    """
    for key, value in now.items():
        if _comparable(saved.get(key)) != _comparable(value):
            raise ConfigError(key, value, rule=f"{told} {saved.get(key)!r:.300}", why=why, fix=fix)


def _comparable(value: Any) -> Any:
    """Returns a value with each tuple in it as a list."""
    if isinstance(value, Mapping):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    return value
