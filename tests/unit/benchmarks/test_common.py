"""`--json FILE` of a benchmark writes that very file."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
AS_NAMED = {"args.json", "options.json"}


def written(file: Path) -> Iterator[str]:
    """Code of the paths that a benchmark writes its results to."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "write_json":
            yield ast.unparse(node.args[0])


def takes_a_name(file: Path) -> bool:
    """Tells whether a benchmark has the option, its own or that of `add_arguments`."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    own = any(ast.unparse(argument) == "'--json'" for call in calls for argument in call.args)
    return own or any(ast.unparse(call.func) == "add_arguments" for call in calls)


FILES = sorted(set(BENCHMARKS.glob("*.py")) - {BENCHMARKS / "common.py"})
NAMED = [file for file in FILES if takes_a_name(file)]


@pytest.mark.parametrize("file", NAMED, ids=lambda file: file.stem)
def test_a_benchmark_writes_the_named_file_with_its_origin(file: Path) -> None:
    paths = set(written(file))
    assert paths, "by `write_json`, which adds commit, machine and versions"
    assert paths <= {*AS_NAMED, f"results_file(args, '{file.stem}')"}


def test_only_parts_of_benchmarks_write_no_results() -> None:
    others = {file.stem for file in set(FILES) - set(NAMED)}
    answers = {f"answer_{part}" for part in ("perturbations", "plain_forms", "rewritings")}
    assert others == {*answers, "limit", "step_worker", "tables"}
    assert not any(set(written(BENCHMARKS / f"{name}.py")) for name in others)


@pytest.mark.parametrize("given", ["mine.json", "folder/mine_quickstart.json", "plain"])
def test_the_named_file_alone_is_written(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common

    parser = argparse.ArgumentParser()
    common.add_arguments(parser, steps=1)
    args = parser.parse_args(["--model=gemma3-270m", f"--json={tmp_path / given}"])
    common.write_json(common.results_file(args, "rollout"), {"rows": [1]})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / given]
    assert json.loads((tmp_path / given).read_text())["rows"] == [1]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("quickstart", "rollout_quickstart.json"),
        ("gemma3-270m", "rollout_gemma3-270m.json"),
        ("models/mine/", "rollout_mine.json"),
    ],
)
def test_by_default_each_model_has_a_file(
    model: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common

    parser = argparse.ArgumentParser()
    common.add_arguments(parser, steps=1)
    args = parser.parse_args([f"--model={model}"])
    assert common.results_file(args, "rollout") == BENCHMARKS / "results" / expected
