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


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.py")), ids=lambda file: file.stem)
def test_a_benchmark_makes_no_other_name_of_it(file: Path) -> None:
    assert set(written(file)) <= {*AS_NAMED, f"results_file(args, '{file.stem}')"}


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
