"""The house rules that a machine can check: who imports whom, sizes, and what tests look like."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from scripts.draw_rooms import PACKAGE, ROOT, STOREY_OF, dotted, imports, other_rooms, room_of

UNIT = Path(__file__).parent

LIGHT = {
    *("", "__main__", "errors", "types", "rewards", "results.report"),
    *("cli", "cli.options", "cli.messages", "cli.report", "cli.run_settings", "cli.short_names"),
    *("cli.first_look", "cli.first_types", "cli.signatures"),
    *("cli.shipped", "cli.configs", "cli.init", "cli.completion", "cli.yaml_files"),
    *("system.whole_files", "system.printable", "system.yaml_size", "system.run_files"),
    "system.import_noise",
}
"""Start without torch, Lightning and transformers, which take seconds to import."""


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_imports_go_downwards(file: Path) -> None:
    room = room_of(dotted(file))
    for other in sorted(other_rooms(file)):
        assert STOREY_OF[other] < STOREY_OF[room], f"{room} must not import {other}"
    package = dotted(file).rpartition(".")[0]
    if dotted(file) in LIGHT or (package and package != "cli" and package in LIGHT):
        outside = {name.split(".")[0] for name in imports(file, for_types=False)}
        assert not outside & {"torch", "lightning", "transformers"}


HOMES = {f"{PACKAGE.name}.{dotted(file)}".removesuffix("."): file for file in FILES}
"""The file of each module."""


def imported_files(file: Path) -> set[Path]:
    """Files of the package that a file imports, be it for a type checker alone."""
    found: set[Path | None] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):  # a module of a package, or a name in a module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {HOMES.get(name, HOMES.get(node.module or "")) for name in names}
        elif isinstance(node, ast.Import):
            found |= {HOMES.get(alias.name) for alias in node.names}
    return {home for home in found if home is not None}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Within rooms, too; a `CycleError` names the files of the circle."""
    order = list(TopologicalSorter({file: imported_files(file) for file in FILES}).static_order())
    assert set(order) == set(FILES)
    assert order.index(HOMES["steer_lightning.types"]) < order.index(HOMES["steer_lightning"])


BESIDE = [
    file
    for folder in ("tests", "benchmarks", "scripts", "callbacks")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
"""Files beside the package."""


@pytest.mark.parametrize("file", FILES + BESIDE, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_functions_stay_small(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


WHOLE = {"test_terminal_text", "test_architecture", "test_public_paths"}
"""Unit tests of the package as a whole."""


def below(file: Path) -> str:
    """A file's name as seen from the unit tests."""
    return file.relative_to(UNIT).as_posix()


@pytest.mark.parametrize("file", sorted(UNIT.rglob("test_*.py")), ids=below)
def test_unit_tests_lie_as_what_they_test(file: Path) -> None:
    """`tests/unit/data/test_math.py` tests `data/math.py`, of the package or beside it."""
    if file.stem in WHOLE and file.parent == UNIT:
        return
    name = file.relative_to(UNIT).with_name(file.stem.removeprefix("test_")).as_posix()
    found = [home for home in (PACKAGE, ROOT) if (home / f"{name}.py").exists()]
    assert found, f"there is no {name}.py to test"


TESTED_AS_A_WHOLE = {
    "strategy": "tests/distributed/test_runs.py",
    "model/sharding/fsdp": "tests/distributed/test_sharding.py",
    "model/sharding/fsdp2": "tests/distributed/test_sharding.py",
    "model/sharding/pace": "tests/distributed/test_runs.py",
    "evaluation/processes": "tests/distributed/test_failures.py",
    "rewards/pool_keeper": "tests/reliability/test_reward_pool.py",
    "rewards/pool_memory": "tests/reliability/test_reward_pool.py",
    "rewards/pool_worker": "tests/reliability/test_reward_pool.py",
    "callbacks/lens": "tests/integration/test_fit.py",
    "cli/sweep": "tests/integration/test_sweep.py",
    "cli/sweep_fit": "tests/integration/test_sweep.py",
    "cli/sweep_processes": "tests/distributed/test_sweep.py",
    "rollout/live_request": "tests/unit/rollout/test_live_flight.py",
    "rollout/joint_completions": "tests/unit/sweep/test_shared_base.py",
    "steering/row_vectors": "tests/unit/sweep/test_shared_base.py",
    "serving/steered_worker": "tests/integration/test_vllm_engine.py",
    "sweep/lane_module": "tests/unit/sweep/test_run.py",
    "training/joint_gradient": "tests/unit/sweep/test_shared_base.py",
    "training/joint_packing": "tests/unit/sweep/test_shared_base.py",
    "cli/evaluate": "tests/integration/test_evaluate.py",
    "cli/lens": "tests/integration/test_lens.py",
    "results/lens/job": "tests/integration/test_lens.py",
    "results/report/comparison": "tests/integration/test_evaluate.py",
}
"""Files that need processes or a whole run, with the test that covers them."""


def has_code(file: Path) -> bool:
    """Tells whether a function of a file does anything; those of a protocol are text alone."""
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [line for function in functions for line in function.body]
    texts = [x for x in lines if isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant)]
    return len(lines) > len(texts)


NAMED = [file for file in FILES if file.name != "__init__.py" and has_code(file)]


@pytest.mark.parametrize("file", NAMED, ids=dotted)
def test_each_file_has_a_test(file: Path) -> None:
    """Of its own name, or one that is named above."""
    name = file.relative_to(PACKAGE).with_suffix("").as_posix()
    own = (UNIT / name).with_name(f"test_{file.stem}.py")
    whole = TESTED_AS_A_WHOLE.get(name)
    assert own.exists() != (whole is not None), f"{own} is there, or it is named above"
    assert whole is None or (ROOT / whole).exists()


def test_what_is_tested_as_a_whole_is_there() -> None:
    names = {file.relative_to(PACKAGE).with_suffix("").as_posix() for file in NAMED}
    assert set(TESTED_AS_A_WHOLE) <= names


@pytest.mark.parametrize("folder", sorted({x.parent for x in UNIT.rglob("*.py")}), ids=below)
def test_rooms_of_unit_tests_are_rooms(folder: Path) -> None:
    assert any((home / below(folder)).is_dir() for home in (PACKAGE, ROOT))


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
HARMLESS = {"device", "is_distributed", "passing", "rank", "together", "world_size"}
"""Functions of `system.collectives` for which no process waits for another."""


def test_the_docs_list_every_collective_call() -> None:
    """By the files that import them, so that whoever adds one reads what it must hold to."""
    expected: dict[str, set[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).endswith("collectives"):
                for name in {alias.name for alias in node.names} - HARMLESS:
                    expected.setdefault(name, set()).add(file.relative_to(PACKAGE).as_posix())
    section = ARCHITECTURE.partition("**Collective calls**")[2].partition("\n**")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    assert {name: set(re.findall(r"`(\S+\.py)`", cell)) for name, cell in rows} == expected


@pytest.mark.parametrize("room", ["system", "model", "rollout", "training"])
def test_the_docs_name_every_file_of_a_room(room: str) -> None:
    section = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]
    rows = section.partition(f"| `{room}/` |")[2]
    names = re.findall(r"`(\w+)`", re.split(r"\n\| `", rows)[0])
    assert {file.stem for file in (PACKAGE / room).glob("*.py")} - {"__init__"} <= set(names)


DOORS = {
    *("model.attention", "model.base", "model.folded_biases", "model.head", "model.layer_stream"),
    *("model.policy", "model.recurrence", "model.replaced_forward", "model.rotary"),
    *("rollout.generate_engine", "steering.generate_calls", "steering.layers"),
    *("steering.model_parts", "steering.sites"),
    "model.token_slopes",
}
"""Files that know what lies inside a model of transformers."""


def test_doors_name_the_lowest_version_as_the_one_they_were_tested_with() -> None:
    lowest = re.findall(r'"transformers>=(.*)"', (ROOT / "pyproject.toml").read_text())
    tested = re.compile(r"Tested with[^.]* transformers (\S+)\.")
    docs = {dotted(file): ast.get_docstring(ast.parse(file.read_text())) or "" for file in FILES}
    found = {name: tested.findall(" ".join(text.split())) for name, text in docs.items()}
    assert {name: x for name, x in found.items() if x} == dict.fromkeys(DOORS, lowest)


CHECKS = {
    "pytest.raises",
    "pytest.warns",
    "torch.testing.assert_close",
    "np.testing.assert_allclose",
}
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def is_helper(name: str) -> bool:
    return name.startswith(("check", "assert_"))


def asserts(function: ast.AST, helpers: set[str]) -> bool:
    """Tells whether a function asserts something, by itself or by helpers."""
    inside = list(ast.walk(function))
    calls = {ast.unparse(node.func) for node in inside if isinstance(node, ast.Call)}
    return bool(calls & (CHECKS | helpers)) or any(isinstance(node, ast.Assert) for node in inside)


def imported_helpers(tree: ast.Module) -> set[str]:
    """Those of the tests and of `steer_lightning.testing`, not the package's own checks."""
    found = set()
    for node in ast.walk(tree):
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        if module == "steer_lightning.testing" or module.startswith("tests."):
            found |= {alias.name for alias in node.names if is_helper(alias.name)}
    return found


@pytest.mark.parametrize("file", TESTS, ids=lambda x: f"{x.parent.name}/{x.stem}")
def test_tests_assert_something(file: Path) -> None:
    """By `assert` or what stands for it, or by a helper `check...` or `assert_...` of the tests."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    helpers = imported_helpers(tree)
    for function in functions:  # in their order: a helper may rest upon those above it
        if is_helper(function.name) and asserts(function, helpers):
            helpers.add(function.name)
    silent = [x.name for x in functions if x.name.startswith("test_") and not asserts(x, helpers)]
    assert not silent
