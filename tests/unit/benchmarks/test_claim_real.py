"""The arms of the comparison on a real model, and those that a sweep over layers measures."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import claim_real
from claim_real import ARMS, FULL, STEERING, Claim, best_of, layer_arm

from steer_lightning.sweep.experiments import each_layer


def test_layers_of_a_sweep_are_the_arms_of_single_layers() -> None:
    names = [layer_arm(experiment.name) for experiment in each_layer(30)]
    assert names[4] == "layer 4 alone"
    assert names[28] == "layer 28 alone"
    assert {name for name in ARMS if name.startswith("layer")} < set(names)


def test_a_sweep_over_layers_has_the_unit_and_the_rate_of_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = argparse.Namespace(
        json=tmp_path / "none.json", model="m", steps=3, device="cpu", data=None, work=tmp_path
    )
    claim, asked = Claim(args), []
    claim.rates = {STEERING: {"0.05": 0.2, "0.1": 0.1}}
    monkeypatch.setattr(claim, "command", lambda *words: asked.extend(words))
    measured: list[Any] = []
    monkeypatch.setattr(claim, "measure", lambda *of: measured.append(of))
    run = tmp_path / "layers/layer-07/run-1"
    run.mkdir(parents=True)
    (run / "summary.json").touch()
    claim.train_layers()
    assert asked[0] == "sweep"
    assert "--model.steering.init_args.scale=kl" in asked
    assert "--model.optimizer.init_args.lr=0.05" in asked
    assert measured == [("layer 7 alone", 0, run, 0.05)]


def test_the_rate_with_the_highest_reward_is_taken() -> None:
    assert best_of({"0.001": 0.12, "0.003": 0.2}) == 0.003
    assert claim_real.slug("LoRA, rank 1 on down_proj") == "lora-rank-1-on-down_proj"


def test_processes_side_by_side_keep_each_others_results(tmp_path: Path) -> None:
    """Each had what was there when it started, and wrote that with its own."""
    args = argparse.Namespace(json=tmp_path / "c.json", model="m", steps=3)
    row = {"rate": 0.05, "before": 0.1, "low": 0.2, "high": 0.4, "seconds": 1}
    both = [Claim(args), Claim(args)]
    both[0].add({**row, "arm": FULL, "seed": 0, "after": 0.3})
    both[1].add_rate(STEERING, 0.05, 0.25)
    both[1].add({**row, "arm": STEERING, "seed": 1, "after": 0.2})
    both[0].add({**row, "arm": STEERING, "seed": 0, "after": 0.2})
    found = json.loads(args.json.read_text())
    order = [(run["seed"], run["arm"]) for run in found["runs"]]
    assert order == [(0, STEERING), (0, FULL), (1, STEERING)]
    assert found["rates"] == {STEERING: {"0.05": 0.25}}
    assert found["chosen"] == {STEERING: 0.05}
    assert found["recovered"][STEERING] == pytest.approx(0.5)
    assert Claim(args).has(FULL, 0, 0.05)
    assert not Claim(args).has(FULL, 0, 0.1), "it was measured at another rate"
    both[1].add({**row, "arm": FULL, "seed": 0, "rate": 0.1, "after": 0.5})
    assert [run["after"] for run in Claim(args).runs if run["arm"] == FULL] == [0.5]
    with pytest.raises(SystemExit, match="is of"):
        Claim(argparse.Namespace(json=args.json, model="m", steps=4))


def test_no_result_is_lost_between_reading_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_real, "draw", lambda *of: time.sleep(0.02))
    args = argparse.Namespace(json=tmp_path / "c.json", model="m", steps=3)
    row = {"rate": 0.05, "before": 0.1, "after": 0.3, "low": 0.2, "high": 0.4, "seconds": 1}

    def measure(arm: str) -> None:
        claim = Claim(args)
        for seed in range(8):
            claim.add({**row, "arm": arm, "seed": seed})

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=measure, args=(arm,)) for arm in (STEERING, FULL)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(Claim(args).runs) == 16
