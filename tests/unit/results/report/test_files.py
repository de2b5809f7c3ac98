"""Files of a run that are missing, damaged or of another run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steer_lightning import ConfigError
from steer_lightning.results.report import write_report
from steer_lightning.results.report.contents import read_contents
from tests import made_up_run
from tests.unit.results.report.helpers import contents


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "lens.json", "lens.jsonl"])
def test_a_run_without_a_file_gives_a_page_all_the_same(run: Path, name: str) -> None:
    (run / name).unlink()
    assert contents(run)["base"] == "a/model"


@pytest.mark.parametrize(
    "name", ["metrics.csv", "summary.json", "lens.json", "lens.jsonl", "rollouts.parquet"]
)
def test_any_single_file_is_enough(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (run / name).rename(tmp_path / "other" / name)
    if name == "lens.jsonl":  # the lens alone is no run
        made_up_run.write_metrics(tmp_path / "other", [1])
    assert write_report(tmp_path / "other").stat().st_size > 1e5


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.csv", "a,b\n1,2\n", "no column `step`"),
        ("metrics.csv", "step,a\n1,2\n2,x\n", "Line 3"),
        ("metrics.csv", "step,a\n1,2,3\n", "Line 2"),
        ("metrics.csv", "step,a\n1.5,2\n", "Line 2"),
        ("summary.json", "{", "Expecting property name"),
        ("summary.json", "[]", "not a JSON object"),
        ("summary.json", "{}", "lacks `versions`"),
        ("summary.json", "[" * 100_000, "is damaged"),
        ("lens.json", '{"layers": 3, "width": 1}', "lacks `layers`"),
        ("lens.jsonl", '{"step": 1}\n', "Line 1: It lacks `norms`"),
        ("config.yaml", "a: [", "config.yaml"),
        ("config.yaml", "[" * 1000, "config.yaml"),
        ("rollouts.parquet", "no parquet", "rollouts.parquet"),
        ("evaluation/results.json", '{"rows": [{}]}', "A row lacks arm, benchmark, metric, value"),
        ("evaluation/completions.parquet", "", "completions.parquet"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, text: str, told: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        write_report(run)
    assert told in str(raised.value)
    assert str(run / name) in str(raised.value)
    assert not (run / "report.html").exists()


def test_binary_rubbish_is_named(run: Path) -> None:
    for name in ("metrics.csv", "summary.json", "config.yaml"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match=f"{name}.*is damaged"):
            write_report(run)
        (run / name).write_bytes(before)


def test_a_checkpoint_of_elsewhere_is_no_earlier_stage(run: Path) -> None:
    for path in ("/other/place/run-2/checkpoints/last.ckpt", "last.ckpt", "runs/run-9/x/last.ckpt"):
        (run / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": path}))
        assert read_contents(run, 1, 1)["stages"] == ["run-1"]
    own = "runs/run-1/checkpoints/last.ckpt"
    (run / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": own}))
    assert read_contents(run, 1, 1)["stages"] == ["run-1"], "no circle"
