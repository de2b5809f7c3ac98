"""SmolLM2-135M-Instruct on SVAMP's 300 test problems, before and after a training run.

    python benchmarks/svamp_smollm2.py --run runs/svamp-smollm2-135m-cpu/run-1 --data FOLDER

The run is one of `svamp/smollm2-135m-cpu`. Base and steered model answer each problem with four
samples at temperature 1 and once greedily, with the prompt of the run, by `steer-lightning
evaluate`. What has been evaluated before is not evaluated again. Accuracies are shares from 0 to 1;
intervals are 95 % bootstrap intervals over problems.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, steps_of, summary, write_json

SAMPLED, GREEDY = "avg@4", "avg@1"
KEPT = ("model", "data", "trainer", "seed_everything")
"""Settings of the run that the result repeats."""


def evaluate(run: Path, output: Path, words: list[str]) -> list[dict[str, Any]]:
    """Evaluates the run's vectors; returns the rows of the results."""
    command = [sys.executable, "-m", "steer_lightning", "evaluate"]
    command += [f"--config={ROOT / 'configs/evaluate/svamp-smollm2.yaml'}"]
    command += [f"--vectors={run}", f"--output={output}"]
    subprocess.run([*command, *words], check=True)
    rows: list[dict[str, Any]] = json.loads((output / "results.json").read_text())["rows"]
    return rows


def row_of(rows: list[dict[str, Any]], arm: str, metric: str) -> dict[str, Any]:
    """The row of an arm and a metric."""
    (found,) = (row for row in rows if row["arm"] == arm and row["metric"] == metric)
    return found


def settings_of(run: Path) -> dict[str, Any]:
    """Settings of the run, without what depends on the machine."""
    content = yaml.safe_load((run / "config.yaml").read_text())
    found = {key: content[key] for key in KEPT}
    found["model"]["base"] = Path(found["model"]["base"]).name
    for source in ("train", "val"):
        found["data"][source]["init_args"].pop("path", None)
    found["trainer"] = {"max_steps": found["trainer"]["max_steps"]}
    return found


def training(run: Path) -> dict[str, Any]:
    """How the training went: mean reward of each step, and its time."""
    rows = steps_of(run.parent)
    facts = summary(run)
    return {
        "rewards": [round(float(row["reward/mean"]), 4) for row in rows],
        "entropies": [round(float(row["completion/entropy"]), 4) for row in rows],
        "seconds_of_steps": round(sum(float(row["speed/step_seconds"]) for row in rows)),
        "trained_parameters": facts["trained_parameters"],
    }


def main() -> None:
    """Evaluates, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--data", help="folder with test.jsonl; default: the hub")
    default = ROOT / "benchmarks/results/svamp_smollm2.json"
    parser.add_argument("--json", type=Path, default=default, help="file for the results")
    args = parser.parse_args()
    words = [f"--benchmarks.svamp.init_args.path={args.data}"] if args.data else []
    rows = evaluate(args.run, args.run / "sampled", words)
    words += ["--sampling.temperature=0", "--sampling.group_size=1"]
    greedy = evaluate(args.run, args.run / "greedy", words)
    before, after = (row_of(rows, arm, SAMPLED) for arm in ("base", "steered"))
    result = {
        "accuracy_before": before["value"],
        "accuracy_after": after["value"],
        "interval_before": [before["low"], before["high"]],
        "interval_after": [after["low"], after["high"]],
        "difference": [after["difference"], after["difference_low"], after["difference_high"]],
    }
    for name, arm in (("before", "base"), ("after", "steered")):
        row = row_of(greedy, arm, GREEDY)
        result[f"accuracy_greedy_{name}"] = row["value"]
        result[f"interval_greedy_{name}"] = [row["low"], row["high"]]
    for key, value in result.items():
        print(key, value)
    result |= {
        "num_problems": before["num_problems"],
        "seed": settings_of(args.run)["seed_everything"],
        "settings": settings_of(args.run),
        "training": training(args.run),
    }
    write_json(args.json, result)


if __name__ == "__main__":
    main()
