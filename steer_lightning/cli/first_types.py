"""Types of arguments, as far as their source tells which values fit."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from steer_lightning.cli.short_names import CLASSES, PACKAGE
from steer_lightning.cli.signatures import Parameter, Signature, Sources


@dataclass(frozen=True)
class Type:
    """A type about which nothing is known, so that any value may fit."""

    is_plain = False
    """Whether `takes` can decide for every value whether it fits."""
    said = ""
    """The values that fit, in words; empty for null."""

    def takes(self, value: Any) -> bool:
        """Tells whether a value certainly fits, or might."""
        return True


@dataclass(frozen=True)
class Plain(Type):
    """Numbers, true and false, text, or null."""

    name: str
    is_plain = True

    @property
    def said(self) -> str:  # type: ignore[override]
        """The values that fit."""
        words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        return words.get(self.name, "text" if self.name == "str" else "")

    def takes(self, value: Any) -> bool:
        """Tells whether a value of a YAML fits."""
        if self.name == "str":  # the parser accepts numbers for some text options but not all
            return not isinstance(value, (dict, list))
        if self.name == "None":
            return value is None or value == "null"
        return not isinstance(value, (str, dict, list))


@dataclass(frozen=True)
class Choice(Type):
    """One of several fixed values."""

    values: tuple[Any, ...]
    is_plain = True

    @property
    def said(self) -> str:  # type: ignore[override]
        """The values that fit."""
        return f"one of {', '.join(map(repr, self.values))}"

    def takes(self, value: Any) -> bool:
        """Tells whether a value of a YAML fits."""
        return not isinstance(value, (dict, list)) and str(value) in map(str, self.values)


@dataclass(frozen=True)
class ListOf(Type):
    """A list."""

    inner: tuple[Type, ...]
    said = "a list"

    def takes(self, value: Any) -> bool:
        """Tells whether a value may be one."""
        return not isinstance(value, str)


@dataclass(frozen=True)
class MapOf(Type):
    """A mapping with arbitrary keys."""

    inner: tuple[Type, ...]
    said = "a mapping"

    def takes(self, value: Any) -> bool:
        """Tells whether a value may be one."""
        return not isinstance(value, str)


@dataclass(frozen=True)
class Kind(Type):
    """A class of a kind of plug-in, a key of `CLASSES`."""

    name: str

    def takes(self, value: Any) -> bool:
        """Returns false: names of classes are examined separately."""
        return False


@dataclass(frozen=True)
class Record(Type):
    """A class whose arguments are given by name, without the name of the class."""

    signature: Signature

    def takes(self, value: Any) -> bool:
        """Returns false: its arguments are examined separately."""
        return False


ANY = (Type(),)
NULL = Plain("None")
SPEC = ("class_path", "init_args")
"""Keys with which a value names a class and its arguments, in the form of jsonargparse."""
ALIASES = {"OptimizerFactory": "Optimizer"}
"""Names of types that stand for a kind."""


class Types:
    """Reads annotations.

    Args:
        sources: Source files in which the names of annotations are defined.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def of(self, parameter: Parameter) -> tuple[Type, ...]:
        """Returns the types of an argument."""
        types = self._read(parameter.annotation, parameter.module)
        return (*types, NULL) if parameter.is_null else types

    def _read(self, node: ast.expr | None, module: str) -> tuple[Type, ...]:
        if isinstance(node, ast.Constant):
            if node.value is None:
                return (NULL,)
            return self._read(_parsed(str(node.value)), module)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return (*self._read(node.left, module), *self._read(node.right, module))
        if isinstance(node, ast.Subscript):
            return self._read_subscript(node, module)
        if isinstance(node, ast.Attribute):
            return (Kind(node.attr),) if node.attr in CLASSES else ANY
        return self._read_name(node.id, module) if isinstance(node, ast.Name) else ANY

    def _read_subscript(self, node: ast.Subscript, module: str) -> tuple[Type, ...]:
        name = ast.unparse(node.value).rpartition(".")[2]
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            return (Choice(tuple(ast.literal_eval(part) for part in parts)),)
        each = [self._read(part, module) for part in parts]
        if name == "Optional":
            return (*each[0], NULL)
        if name == "Union":
            return tuple(x for types in each for x in types)
        if name.lower() in ("list", "sequence", "iterable"):
            return (ListOf(each[0]),)
        return (MapOf(each[1]),) if name.lower() == "dict" else ANY

    def _read_name(self, name: str, module: str) -> tuple[Type, ...]:
        if name in ("int", "float", "bool", "str"):
            return (Plain(name),)
        name = ALIASES.get(name, name)
        if name in CLASSES:
            return (Kind(name),)
        found = self._sources.find(module, name)
        if found is None:
            return ANY
        if isinstance(found.node, ast.Assign):
            return self._read(found.node.value, found.module)
        signature = self._sources.signature(f"{found.module}.{name}")
        own = found.module.startswith(f"{PACKAGE}.")
        return (Record(signature),) if own and signature is not None else ANY


def is_spec(value: Any) -> bool:
    """Tells whether a value names a class or its arguments."""
    return isinstance(value, dict) and any(key in value for key in SPEC)


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
