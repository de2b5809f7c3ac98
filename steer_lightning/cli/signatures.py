"""The arguments of classes, read from source, since importing torch would take seconds.

What the source does not tell is marked as unknown and left to the parser, which imports the class.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EMPTY_BASES = ("object", "ABC", "Protocol", "Generic")
"""Base classes that take no arguments."""
HARMLESS = {"dataclass", "final", "runtime_checkable"}
"""Class decorators that leave the arguments as they are in the source."""


@dataclass(frozen=True)
class Parameter:
    """An argument of a class or function."""

    annotation: ast.expr | None
    """Its type, to be resolved in `module`."""
    module: str
    """Module whose source contains the annotation."""
    is_required: bool
    """Whether it has no default."""
    is_null: bool = False
    """Whether its default is None, whatever its type."""


@dataclass(frozen=True)
class Signature:
    """The arguments of a class or function."""

    name: str
    """Its full name."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    """Its arguments by name, without `self`."""
    is_complete: bool = True
    """Whether it takes no other arguments."""


@dataclass(frozen=True)
class Definition:
    """A statement that defines a name."""

    module: str
    """Module that contains the statement."""
    node: ast.ClassDef | ast.FunctionDef | ast.Assign


class Sources:
    """Finds classes and functions in source files, each of which it parses once."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module | None] = {}

    def tree(self, module: str) -> ast.Module | None:
        """Returns the source of a module; None if there is no such file."""
        if module not in self._trees:
            file = _file_of(module)
            try:
                self._trees[module] = ast.parse(file.read_text("utf-8")) if file else None
            except (SyntaxError, ValueError, OSError):
                self._trees[module] = None
        return self._trees[module]

    def find(self, module: str, name: str) -> Definition | None:
        """Finds the definition of a name in a module, whichever file contains it."""
        tree = self.tree(module)
        for node in _statements(tree.body if tree else []):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return self.find(
                            _origin(module, node, self._is_package(module)), alias.name
                        )
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                if node.name == name:
                    return Definition(module, node)
            elif isinstance(node, ast.Assign) and [ast.unparse(x) for x in node.targets] == [name]:
                return Definition(module, node)
        return None

    def signature(self, full_name: str) -> Signature | None:
        """Returns the arguments of a class or function; None if its source does not tell."""
        module, _, name = full_name.rpartition(".")
        found = self.find(module, name)
        return None if found is None else self._signature(full_name, found)

    def _signature(self, name: str, found: Definition) -> Signature | None:
        node = found.node
        if isinstance(node, ast.FunctionDef):
            return _of_function(name, found.module, node, is_method=False)
        if isinstance(node, ast.Assign):
            return None
        decorators = {_head(ast.unparse(x)) for x in node.decorator_list}
        if decorators - HARMLESS:
            return None
        own = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
        if "__init__" in own:
            return _of_function(name, found.module, own["__init__"], is_method=True)
        if "__new__" in own or node.keywords:
            return None
        bases = [base for base in map(ast.unparse, node.bases) if _head(base) not in EMPTY_BASES]
        inherited = [self._of_base(name, found.module, base) for base in bases]
        if None in inherited:
            return None
        first = next((base for base in inherited if base), Signature(name))
        if "dataclass" in decorators:
            return Signature(name, {**first.parameters, **_fields(found.module, node)})
        return first

    def _of_base(self, name: str, module: str, base: str) -> Signature | None:
        found = None if "." in base else self.find(module, base.partition("[")[0])
        return None if found is None else self._signature(name, found)

    def _is_package(self, module: str) -> bool:
        file = _file_of(module)
        return file is not None and file.name == "__init__.py"


def _file_of(module: str) -> Path | None:
    """Finds the source of a module without importing anything."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    if not rest:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    places = [folder.joinpath(*rest, "__init__.py"), folder.joinpath(*rest).with_suffix(".py")]
    return next(
        (place for place in places if spec.submodule_search_locations and place.is_file()), None
    )


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields a module's statements, including those under a condition, last ones first."""
    for node in reversed(body):
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _statements([*node.body, *(x for h in node.handlers for x in h.body)])
        else:
            yield node


def _origin(module: str, node: ast.ImportFrom, is_package: bool) -> str:
    """Returns the full name of the module that a statement imports from."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _head(expression: str) -> str:
    """Returns the last name of `a.b.Name[...]` or `Name(...)`."""
    return expression.partition("[")[0].partition("(")[0].rpartition(".")[2]


def _of_function(name: str, module: str, node: ast.FunctionDef, is_method: bool) -> Signature:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(plain) - len(arguments.defaults)), *arguments.defaults]
    pairs = list(zip(plain, defaults, strict=True))[is_method:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return Signature(
        name,
        {x.arg: Parameter(x.annotation, module, y is None, _is_null(y)) for x, y in pairs},
        is_complete=arguments.kwarg is None and arguments.vararg is None,
    )


def _fields(module: str, node: ast.ClassDef) -> dict[str, Parameter]:
    """Returns the fields of a dataclass."""
    found = {}
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or "ClassVar" in ast.unparse(line.annotation):
            continue
        made: Any = line.value
        words = {x.arg for x in made.keywords} if isinstance(made, ast.Call) else set()
        if "init" not in words:
            parameter = Parameter(line.annotation, module, made is None, _is_null(made))
            found[ast.unparse(line.target)] = parameter
    return found


def _is_null(default: ast.expr | None) -> bool:
    return isinstance(default, ast.Constant) and default.value is None
