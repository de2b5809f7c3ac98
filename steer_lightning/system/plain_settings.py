"""Describes the settings of plug-ins as plain values, and compares those of two runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from steer_lightning.errors import ConfigError

PLAIN = (bool, int, float, str, type(None))
DEPTH = 4


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
