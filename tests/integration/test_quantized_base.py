"""Training on a quantised base by the command line, and what its vectors say afterwards."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from steer_lightning import load_vectors
from steer_lightning.cli import main
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization

STEPS = ["--trainer.max_steps=2", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false"]
STEPS += ["--data.batch_size=4", "--model.sampling.group_size=4"]


def mismatch(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["mismatch/max"]) for row in csv.DictReader(file) if row["mismatch/max"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the quickstart in 4 bits, and two with rollouts in 4 bits."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in (
        ("both", ["--model.quantization.bits=4"]),
        ("rollouts", ["--config", "algorithms/quantized_rollouts"]),
    ):
        config = ["--config", "quickstart", *words, *STEPS]
        root = f"--trainer.default_root_dir={folder / name}"
        assert main(["fit", *config, root]) == 0
    return folder


def test_one_quantised_base_has_no_mismatch_and_a_copy_has_one(runs: Path) -> None:
    assert max(mismatch(runs / "both/run-1")) < 1e-4
    assert min(mismatch(runs / "rollouts/run-1")) > 1e-3


def test_a_run_and_its_vectors_tell_that_the_base_was_quantised(runs: Path) -> None:
    bits, hashes = [], []
    for name in ("both", "rollouts"):
        run = runs / name / "run-1"
        facts: dict[str, Any] = json.loads((run / "summary.json").read_text())
        vectors = load_vectors(run)
        assert vectors.vectors.abs().max() > 0
        bits.append((facts["base_bits"], vectors.metadata.get("base_bits")))
        hashes.append(facts["base_sha256"])
    assert bits == [(4, "4"), (None, None)]
    base, quantised = Policy("quickstart"), Policy("quickstart", quantization=Quantization(bits=4))
    for policy in (base, quantised):
        policy.load()
    assert hashes == [quantised.base_sha256(), base.base_sha256()]


def test_a_run_goes_on_only_on_the_same_base(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", "quickstart", *STEPS, "--trainer.max_steps=3"]
    words += [f"--trainer.default_root_dir={runs / 'both'}"]
    assert main([*words, "--model.quantization.bits=8", "--ckpt_path=last"]) != 0
    told = capsys.readouterr().err
    assert "model.quantization.bits = 8" in told
    assert "4" in told


def test_an_evaluation_says_which_base_it_reads(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["evaluate", "--config", "evaluate/quickstart", "--scales=[1.0]", "--neutral_text=null"]
    words += ["--vectors", str(runs / "both/run-1"), "--benchmarks.arithmetic.num_problems=4"]
    warning = "these vectors were trained on a base in 4 bits, and are used on a base that is not"
    for name, options in (("full", []), ("4", ["--quantization.bits=4"])):
        caplog.clear()
        assert main([*words, f"--output={tmp_path / name}", *options]) == 0
        assert any(warning in told for told in caplog.messages) == (name == "full")
