"""The public names of the package, and those that lack a docstring or a place in the reference."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterator
from importlib import import_module
from typing import Any

PACKAGE = "steer_lightning"
ROOMS = (
    "",
    "advantages",
    "callbacks",
    "data",
    "evaluation",
    "losses",
    "optim",
    "rewards",
    "rollout",
    "steering",
    "strategy",
    "testing",
    "training",
    "types",
)
"""Modules whose names are public; the first one is the package itself."""
VALUES = {"optim": ("OptimizerFactory",), "testing": ("ARCHITECTURES",)}
"""Public names of modules without `__all__` that are neither classes nor functions."""


def public_names(room: str) -> list[str]:
    """Returns the names that a room offers."""
    module = import_module(f"{PACKAGE}.{room}".rstrip("."))
    if not room:
        return dir(module)
    listed = getattr(module, "__all__", None)
    own = [name for name, x in vars(module).items() if _is_own(x, module.__name__)]
    return list(listed) if listed is not None else [*own, *VALUES.get(room, ())]


def _is_own(x: Any, module: str) -> bool:
    name = getattr(x, "__name__", "_")
    return not name.startswith("_") and getattr(x, "__module__", None) == module


def members(name: str, x: Any) -> Iterator[tuple[str, Any]]:
    """Yields a public name, and the methods and properties that its class adds."""
    yield name, x
    for member, value in vars(x).items() if inspect.isclass(x) else ():
        kinds = (property, classmethod, staticmethod)
        is_own = inspect.isfunction(value) and value.__module__.startswith(PACKAGE)
        if not member.startswith("_") and (is_own or isinstance(value, kinds)):
            yield f"{name}.{member}", value


def every_member() -> Iterator[tuple[str, Any]]:
    """Yields every public name with its methods and properties, and what it names."""
    for room in ROOMS:
        module = import_module(f"{PACKAGE}.{room}".rstrip("."))
        for name in public_names(room):
            yield from members(f"{module.__name__}.{name}", getattr(module, name))


def without_docstring() -> list[str]:
    """Returns the public names that say nothing about themselves."""
    told = (type, property, classmethod, staticmethod)  # others, such as `int | str`, have none
    rows = [(path, x) for path, x in every_member() if inspect.isroutine(x) or type(x) in told]
    return [path for path, x in rows if not inspect.getdoc(x)]


def missing(shown: Container[str]) -> list[str]:
    """Returns the public names that no page of the reference shows, under any of their names.

    Args:
        shown: Names that the pages show.
    """
    rows = list(every_member())
    found = {id(x) for path, x in rows if path in shown}
    return [path for path, x in rows if id(x) not in found]
