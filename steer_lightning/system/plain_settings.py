"""The settings of a plug-in as plain values, by which runs can be compared."""

from __future__ import annotations

from typing import Any

PLAIN = (bool, int, float, str, type(None))
DEPTH = 4


def describe(value: Any, depth: int = DEPTH) -> Any:
    """Describes an object by its class and its public attributes.

    Args:
        value: Plain value, function or object, as a configuration gives it.
        depth: Number of levels of objects within objects to describe; further down only the class
            is named.

    Returns:
        A number, a text, None, or lists and dictionaries of them.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item, depth) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item, depth) for key, item in value.items()}
    name = getattr(value, "__name__", None)  # functions and classes have one
    if name is not None:
        return name
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    if not public or not depth:
        return type(value).__name__
    attributes = {key: describe(item, depth - 1) for key, item in public.items()}
    return {"class": type(value).__name__, **attributes}
