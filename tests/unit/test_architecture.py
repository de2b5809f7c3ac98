"""The house rules that a machine can check: who imports whom, and sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "steer_lightning"
LEAVES = {
    "errors",
    "atomic",
    "printable",
    "hub_answers",
    "describe",
}  # no arrow is needed for them: they import the standard library alone
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "printable": set(),
    "hub_answers": set(),
    "describe": set(),
    "checkpoint_file": set(),
    "yaml_size": set(),
    "run_log": set(),
    "run_folders": set(),
    "messages": set(),
    "command_line": {"messages", "yaml_size"},
    "types": set(),
    "processes": set(),
    "peers": set(),
    "sharding": {"processes"},
    "strategy": {"sharding", "peers"},
    "step": {"processes", "rewards", "types"},
    "data": {"types"},
    "steering": set(),
    "hub": set(),
    "fingerprint": set(),
    "forwards": set(),
    "export": {"hub", "steering"},
    "model_card": {"hub", "steering"},
    "publish": {"model_card", "steering"},
    "policy": {"types", "hub", "fingerprint", "losses", "sharding", "steering", "forwards"},
    "rollout": {"types", "policy", "steering"},
    "rewards": {"types"},
    "advantages": set(),
    "losses": {"types"},
    "microbatches": {"types", "streams"},
    "reading": {"types", "policy", "losses", "microbatches", "packing", "steering", "streams"},
    "streams": {"forwards"},
    "gradient": {
        *("types", "policy", "losses", "microbatches", "packing", "processes", "reading"),
        "streams",
    },
    "update": {"gradient", "microbatches", "policy", "processes", "step"},
    "packing": {"steering"},
    "optim": set(),
    "sample": {"types", "advantages", "policy", "processes", "rewards", "rollout", "step"},
    "kl_in_reward": {"gradient", "losses", "policy", "processes", "step"},
    "checks": {"processes", "rewards", "rollout", "sample", "strategy", "update"},
    "resume": {"policy", "rewards", "rollout"},
    "random_states": set(),
    "evaluation": {
        *("types", "data", "policy", "processes", "rollout", "rewards", "steering"),
        "fingerprint",
    },
    "held_out": {"types", "policy", "processes", "rollout", "rewards", "evaluation"},
    "module": {
        *("types", "policy", "steering", "rollout", "rewards", "advantages", "losses"),
        *("gradient", "microbatches", "reading", "update", "optim", "checks", "resume"),
        *("held_out", "kl_in_reward", "sample", "processes", "random_states", "step", "strategy"),
    },
    "callbacks": {
        *("types", "module", "evaluation", "steering", "rewards", "rollout", "checkpoint_file"),
        *("lens", "optim", "policy", "processes", "step"),
    },
    "lens": {"types", "policy", "sharding", "steering"},
    "report": {"yaml_size"},
    "training_free": {
        *("types", "advantages", "evaluation", "microbatches", "policy", "rewards", "rollout"),
        "steering",
    },
}  # cli, *_cli, runs, testing, __main__ and __init__ may import everything
NO_TORCH = {
    *("errors", "atomic", "printable", "types", "messages", "rewards", "report", "cli"),
    *("command_line", "yaml_size", "run_folders", "report_cli"),
    *("__init__", "__main__"),
}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    # what only a type checker reads is not imported
    typing = [node for node in tree.body if isinstance(node, ast.If)]
    typing = [node for node in typing if ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for block in typing for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = imports(file)
    if room in ALLOWED:
        own = {name.split(".")[1] for name in found if name.startswith("steer_lightning.")}
        assert own - LEAVES - {room} <= ALLOWED[room], (
            f"{room} must not import {own - ALLOWED[room]}"
        )
    if room in NO_TORCH:
        assert not {name.split(".")[0] for name in found} & {"torch", "lightning", "transformers"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_every_room_has_its_arrows() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    assert rooms - set(ALLOWED) == {
        "__init__",
        "__main__",
        "cli",
        "training_cli",
        "evaluate_cli",
        "report_cli",
        "lens_cli",
        "export_cli",
        "vectors_cli",
        "difference_cli",
        "runs",
        "testing",
    }
