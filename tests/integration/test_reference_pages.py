"""The pages about files and metrics name what a run writes, and nothing that the code lacks."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from steer_lightning import export_vectors
from steer_lightning.callbacks.guard import keep_batch
from steer_lightning.cli import main
from steer_lightning.cli.short_names import CLASSES
from steer_lightning.evaluation.results import KINDS, table_rows
from steer_lightning.evaluation.store import SCHEMA
from steer_lightning.system.run_files import LENS, LENS_LINES, METRICS, ROLLOUTS, SUMMARY
from steer_lightning.training.monitors import _made_up
from tests.made_up_step import make_step

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "docs/reference/file-formats.md").read_text()
PAGE = (ROOT / "docs/reference/metrics.md").read_text()
NAME = re.compile(r"`([^`]+)`")
PARTS = ("Objective", "Correction", "Term")
"""Kinds of parts of a loss that report metrics."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the quickstart, with a benchmark of two problems."""
    root = tmp_path_factory.mktemp("runs")
    words = ["fit", "--config", "quickstart", f"--trainer.default_root_dir={root}"]
    words += ["--trainer.max_steps=1", "--data.batch_size=4", "--trainer.enable_progress_bar=false"]
    arithmetic = {"class_path": "Arithmetic", "init_args": {"num_problems": 2, "split": "test"}}
    arms = {"base": {"scale": 0}}
    settings = {"benchmarks": {"sums": arithmetic}, "every_n_steps": 1, "arms": arms}
    evaluate = {"class_path": "BenchmarkEval", "init_args": settings}
    words += [f"--trainer.callbacks={json.dumps([evaluate])}"]
    assert main(words) == 0
    return root / "run-1"


def names_in(section: str, page: str = FILES) -> set[str]:
    """Names in the first column of the first table after a heading or a line."""
    _, found, rest = page.partition(f"\n{section}\n")
    assert found, section
    table = re.search(r"^\|.*?(?=\n\n|\Z)", rest, re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = table[0].splitlines()[2:]
    return {name for row in rows for name in NAME.findall(row.split(" | ")[0])}


def keys(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_vectors(run: Path) -> None:
    with safe_open(run / "steering_vectors.safetensors", "pt") as file:
        assert {"vectors"} == set(file.keys()) == names_in("## Vectors") - {"gates"}
        told = set(file.metadata())
        assert told == names_in("All metadata are text:") - {"kind", "tokens", "base_bits"}
    with safe_open(run / "best.safetensors", "pt") as file:
        (further,) = re.findall(r"^\| key of the best .*?\n\n", FILES, re.MULTILINE | re.DOTALL)
        shown = {name for row in further.splitlines()[2:] for name in NAME.findall(row)[:1]}
        assert set(file.metadata()) - told == shown == {"metric", "value"}


def test_tables_of_a_run(run: Path) -> None:
    columns = set(pq.read_schema(run / ROLLOUTS).names)
    assert columns - {"reward_MathReward"} == names_in("## rollouts.parquet") - {"reward_REWARD"}
    assert keys(run / SUMMARY).keys() == names_in("## summary.json")


def test_the_lens(run: Path) -> None:
    found, line = keys(run / LENS), keys(run / LENS_LINES)
    assert line.keys() == names_in("## lens.jsonl")
    assert found.keys() == names_in("## lens.json")
    assert found["layers"][0].keys() == names_in("In `layers`:")
    assert found["first_token"].keys() == names_in("In `first_token`:")


def test_the_checkpoint_and_a_skipped_batch(run: Path, tmp_path: Path) -> None:
    found = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert found.keys() == names_in("## last.ckpt")
    keep_batch(make_step(), tmp_path / "batch.pt")
    assert torch.load(tmp_path / "batch.pt").keys() == names_in("## Skipped batches")


def test_evaluations_and_exports(run: Path, tmp_path: Path) -> None:
    assert set(SCHEMA.names) == names_in("## completions.parquet")
    values = {"base": {"avg@1": torch.ones(2).numpy()}, "steered": {"avg@1": torch.ones(2).numpy()}}
    (_, row) = table_rows("sums", values)
    assert row.keys() == names_in("## results.json")
    export_vectors(run, to="easysteer", output=tmp_path / "made", verify=False)
    assert keys(tmp_path / "made/export.json").keys() == names_in("`export.json`:")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", FILES.partition("## Exports")[2], re.M))
    named = {*NAME.findall(rows["easysteer"]), "README.md", "export.json"}
    assert named == {path.name for path in (tmp_path / "made").iterdir()}


# ---- metrics

SHOWN = {name for line in PAGE.splitlines() for name in NAME.findall(line.split(" | ")[0])}
SHOWN = {name for name in SHOWN if re.fullmatch(r"[a-z]+(/\w+)+", name)}
"""Names in the first column of the tables."""


def on_the_page(name: str) -> str:
    """A name of a run as the page has it."""
    name = re.sub(r"^benchmark/\w+/", "benchmark/NAME/", name)
    name = re.sub(r"/arms/\w+/", "/arms/ARM/", name)
    name = re.sub(r"layer_\d+$", "layer_N", name)
    return re.sub(r"/MathReward(/num_\w+)?$", lambda m: _of_reward(m[1]), name)


def _of_reward(outcome: str | None) -> str:
    return "/REWARD/num_OUTCOME" if outcome else "/REWARD"


def test_every_metric_of_a_run_is_on_the_page(run: Path) -> None:
    with (run / METRICS).open() as file:
        names = {on_the_page(name) for name in next(csv.reader(file))} - {"step"}
    assert len(names) > 30
    assert names <= SHOWN


def literals() -> Iterator[str]:
    """All texts in the code of the package, whole or as the fixed parts of an f-string."""
    for file in (ROOT / "steer_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_metric_that_the_code_names_is_on_the_page() -> None:
    families = {name.split("/")[0] for name in SHOWN}
    form = re.compile(rf"({'|'.join(families)})/[a-z_]+[a-z]")
    found = {text for text in literals() if form.fullmatch(text)}
    assert len(found) > 15
    assert found <= SHOWN | {"update/loss"}


def test_the_page_has_no_name_that_the_code_lacks() -> None:
    known = " ".join(literals())
    for name in SHOWN:
        family, *_, last = name.replace("/layer_N", "").split("/")
        assert f"{family}/" in known, name
        assert re.search(rf"\b{last.replace('OUTCOME', '').replace('REWARD', '')}", known), name


def reported(cls: Any) -> dict[str, Any]:
    """What a part of a loss reports."""
    part = cls(weight=0.1) if cls.__name__ in ("KLToBase", "EntropyBonus") else cls()
    act = getattr(part, "gains", None) or getattr(part, "factors", None) or part.costs
    metrics: dict[str, Any] = act(_made_up())[1]
    return metrics


def test_metrics_of_losses_and_of_what_is_trained() -> None:
    of_losses = {
        f"update/{name}"
        for kind in PARTS
        for path in CLASSES[kind].values()
        for name in reported(resolve_name(path))
    }
    always = {"loss", "num_completions", "gradient_norm", "learning_rate", "skipped"}
    update = {name for name in SHOWN if name.startswith("update/")}
    assert update == of_losses | {f"update/{name}" for name in always}
    of_trained = set()
    for file in (ROOT / "steer_lightning/steering").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "metrics":
                dicts = [x for x in ast.walk(node) if isinstance(x, ast.Dict)]
                of_trained |= {ast.literal_eval(key) for x in dicts for key in x.keys if key}
    assert {name for name in SHOWN if name.startswith("vectors/")} == {
        f"vectors/{name}" for name in of_trained
    }


def test_metrics_of_evaluate() -> None:
    shown = names_in("## Command evaluate", PAGE)
    assert {name.partition("@")[0] for name in shown} == set(KINDS)


def test_measured_figures_of_the_comparison_are_those_of_performance() -> None:
    page = (ROOT / "docs/comparison.md").read_text()
    table = page.partition("| a whole step on 2 CPU cores |")[2].partition("\n\n")[0]
    figures = re.findall(r"[\d.]+ (?:s|MB)\b", table)
    assert len(figures) == 8
    performance = (ROOT / "docs/explanation/performance.md").read_text()
    assert [figure for figure in figures if figure not in performance] == []
