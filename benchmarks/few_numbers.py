"""How few trained numbers suffice: accuracy on the quickstart against how many are trained.

    python benchmarks/few_numbers.py               # all arms, one seed
    python benchmarks/few_numbers.py --seeds 3
    python benchmarks/few_numbers.py --arms "TinyLoRA, 13 numbers"

The quickstart, in which only what is trained and its learning rate differ. Each arm is first
trained for half of its steps with seed 100 at each of its rates, without any measurement. The rate
with the highest mean reward in the last half of such a run, on training problems alone, is taken.
Accuracy is that on 512 problems which no run has seen, with a 95 % bootstrap interval over them.
The picture has the arms of `claim.py` with their three seeds, too.

Each result is written as soon as it is there, and what is there is not measured again: give the
same command to go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from claim_real import Arm, best_of
from common import ROOT, fit, label_by_numbers, picture, steps_of, summary, write_json

CLAIM = ROOT / "benchmarks/results/claim.json"
OF_CLAIM = {
    "layer 1 alone": "1",
    "low-rank, rank 1": "2",
    "steering vectors": "x",
    "LoRA, rank 1 on down_proj": "+",
    "LoRA, rank 4": "*",
    "full fine-tuning": "4",
}
"""Arms of `claim.py` in the picture, with their markers."""
SEARCH_SEED = 100
Result = dict[str, Any]


def tiny(u: int, tying: float) -> Arm:
    """TinyLoRA of rank 2 with so many numbers in a vector."""
    return Arm("TinyLoRA", (0.01, 0.05), (f"u={u}", f"weight_tying={tying}"))


def projected(count: int) -> Arm:
    """Vectors of all layers from so many numbers."""
    return Arm("ProjectedVectors", (0.05, 0.2), (f"count={count}", "scale=rms"))


ARMS = {
    "projected vectors, 1 number": projected(1),
    "TinyLoRA, 1 number": tiny(1, 1.0),
    "a size for each layer of one random vector": Arm(
        "LowRankVectors", (0.05, 0.2), ("rank=1", "directions=random", "scale=rms")
    ),
    "projected vectors, 13 numbers": projected(13),
    "TinyLoRA, 13 numbers": tiny(13, 1.0),
    "LoReFT, rank 1": Arm("LoReFT", (0.001, 0.005), ("rank=1",)),
    "READ, rank 8": Arm("READ", (0.002, 0.01), ("rank=8",)),
    "VeRA, rank 64": Arm("VeRA", (0.01, 0.05), ("rank=64",)),
    "SMoA, rank 1, 2 parts": Arm("SMoA", (0.003, 0.02), ("rank=1",)),
    "TinyLoRA, 13 numbers a matrix": tiny(13, 0.0),
    "projected vectors, 100 numbers": projected(100),
}


class Curve:
    """The results so far, in a file.

    Args:
        args: Options of the command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        self.of = {"steps": args.steps}
        if known and known["of"] != self.of:
            sys.exit(f"{args.json} is of {known['of']}: give these, or another --json")
        self.rates: dict[str, dict[str, float]] = known.get("rates", {})
        self.runs: list[Result] = known.get("runs", [])

    def save(self) -> None:
        """Writes the file and the picture."""
        order = {name: place for place, name in enumerate(ARMS)}
        self.runs.sort(key=lambda run: (order[run["arm"]], run["seed"]))
        chosen = {name: best_of(rates) for name, rates in self.rates.items()}
        result = {"of": self.of, "rates": self.rates, "chosen": chosen, "runs": self.runs}
        args = self.args
        write_json(args.json, result)
        if self.runs:
            draw(self.runs, args.json.with_suffix(".png"))

    def train(self, words: list[str], steps: int) -> tuple[Result, list[dict[str, str]]]:
        """One run; returns its summary and the metrics of its steps."""
        with tempfile.TemporaryDirectory() as folder:
            run = fit(Path(folder), *words, f"--trainer.max_steps={steps}")
            return summary(run), steps_of(Path(folder))

    def find_rate(self, name: str) -> float:
        """Returns the rate with the highest reward on training problems."""
        known = self.rates.setdefault(name, {})
        for rate in ARMS[name].rates:
            if str(rate) not in known:
                words = [*ARMS[name].words(rate), f"--seed_everything={SEARCH_SEED}"]
                _, steps = self.train([*words, "--trainer.callbacks=[]"], self.args.steps // 2)
                rewards = [float(row["reward/mean"]) for row in steps]
                known[str(rate)] = statistics.fmean(rewards[len(rewards) // 2 :])
                print(f"{name} at {rate:g}: reward {known[str(rate)]:.3f}", flush=True)
                self.save()
        return best_of(known)

    def measure(self, name: str, seed: int) -> None:
        """Trains an arm with one seed, unless that has been done."""
        if any((run["arm"], run["seed"]) == (name, seed) for run in self.runs):
            return
        words = [*ARMS[name].words(self.find_rate(name)), f"--seed_everything={seed}"]
        facts, _ = self.train(words, self.args.steps)
        low, high = facts["interval_after"]["arithmetic"]
        run = {
            "arm": name,
            "seed": seed,
            "before": facts["accuracy_before"]["arithmetic"],
            "after": facts["accuracy_after"]["arithmetic"],
            "low": low,
            "high": high,
            "trained": facts["trained_parameters"],
        }
        print(f"seed {seed}  {name:<42} {run['before']:.1%} -> {run['after']:.1%}", flush=True)
        self.runs.append(run)
        self.save()


def draw(runs: list[Result], path: Path) -> None:
    """Accuracy against how many numbers are trained, with intervals."""
    figure, axes = picture()
    markers = {"TinyLoRA": "s", "ProjectedVectors": "o", "LowRankVectors": "v"}
    others = json.loads(CLAIM.read_text())["runs"] if CLAIM.exists() else []
    for name, marker in OF_CLAIM.items():
        mine = [run for run in others if run["arm"] == name]
        across, after = [run["trained"] for run in mine], [100 * run["after"] for run in mine]
        axes.plot(across, after, marker, color="gray", alpha=0.7, label=f"{name} (claim)")
    for name in dict.fromkeys(run["arm"] for run in runs):
        mine = [run for run in runs if run["arm"] == name]
        after = [100 * run["after"] for run in mine]
        below = [100 * (run["after"] - run["low"]) for run in mine]
        above = [100 * (run["high"] - run["after"]) for run in mine]
        axes.errorbar(
            [run["trained"] for run in mine],
            after,
            yerr=[below, above],
            fmt=markers.get(ARMS[name].kind, "D"),
            alpha=0.7,
            capsize=3,
            label=f"{name}, {statistics.fmean(after):.1f} %",
        )
    label_by_numbers(axes, runs)
    figure.savefig(path)


def main() -> None:
    """Measures what is not yet there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], help="only these")
    results = ROOT / "benchmarks/results/few_numbers.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    curve = Curve(args)
    for seed in range(args.seeds):
        for name in args.arms:
            curve.measure(name, seed)


if __name__ == "__main__":
    main()
