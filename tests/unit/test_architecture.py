"""The house rules that a machine can check: who imports whom, and sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "steer_lightning"

STOREYS: tuple[set[str], ...] = (
    {"types", "errors"},
    {"system"},
    {"data", "rewards", "steering", "advantages", "losses", "optim"},
    {"model"},
    {"rollout", "strategy"},
    {"evaluation"},
    {"training", "results"},
    {"module"},
    {"callbacks", "testing"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Rooms import what lies on lower storeys alone: neither upwards nor next door."""

LIGHT = {
    *("", "__main__", "errors", "types", "rewards", "results.report"),
    *("cli", "cli.options", "cli.messages", "cli.report"),
    *("system.whole_files", "system.printable", "system.yaml_size", "system.run_files"),
}
"""Start without torch, Lightning and transformers, which take seconds to import."""


def room_of(name: str) -> str:
    """The top-level place of a dotted name without `steer_lightning.`."""
    return name.split(".")[0] or "__init__"


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports when it runs."""
    tree = ast.parse(file.read_text())
    # what only a type checker reads is not imported
    typing = [node for node in tree.body if isinstance(node, ast.If)]
    typing = [node for node in typing if ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for block in typing for inner in ast.walk(block)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))
STOREY_OF = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}


def dotted(file: Path) -> str:
    """A file's module, without `steer_lightning.`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_imports_go_downwards(file: Path) -> None:
    room = room_of(dotted(file))
    own = {name.partition(".")[2] for name in imports(file) if name.startswith("steer_lightning.")}
    for other in sorted({room_of(name) for name in own} - {room}):
        assert STOREY_OF[other] < STOREY_OF[room], f"{room} must not import {other}"
    package = dotted(file).rpartition(".")[0]
    if dotted(file) in LIGHT or (package and package != "cli" and package in LIGHT):
        outside = {name.split(".")[0] for name in imports(file)}
        assert not outside & {"torch", "lightning", "transformers"}


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_files_and_functions_stay_small(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
