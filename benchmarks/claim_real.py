"""The claim on a real model: how much of full fine-tuning's gain do vectors recover on SVAMP?

    python benchmarks/claim_real.py --model models/smollm2-135m-instruct --data FOLDER
    python benchmarks/claim_real.py ... --all-layers             # every single layer, in a sweep
    python benchmarks/claim_real.py ... --device cuda            # minutes instead of hours

SmolLM2-135M-Instruct with the settings of `svamp/smollm2-135m-cpu`, in which only what is trained
and its learning rate differ. Each arm is trained with the first seed at each of its rates. The rate
with the highest mean reward in the last half of the run, on training problems alone, is taken for
the other seeds, too. The run at this rate answers the 300 test problems four times at temperature
1. `recovered` is the share of full fine-tuning's gain that an arm reaches, both gains being means
over the seeds.

Each result is written as soon as it is there, and what is there is not measured again: give the
same command to go on. Runs are kept in `--work`; an interrupted one goes on from its last
checkpoint. Commands for different `--arms` may run side by side, one on each core, and add to the
same file.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, finished, gains, origin, steps_of, summary, write_json
from matplotlib.figure import Figure

KINDS = "steer_lightning.steering"
STEERING, FULL, TRAINING_FREE = "steering vectors", "full fine-tuning", "training-free vectors"
Result = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What is trained, and the learning rates to choose from."""

    kind: str
    rates: tuple[float, ...]
    settings: tuple[str, ...] = ()

    def words(self, rate: float) -> list[str]:
        """For the command line."""
        words = [f"--model.steering={KINDS}.{self.kind}", f"--model.optimizer.init_args.lr={rate}"]
        return [*words, *(f"--model.steering.init_args.{setting}" for setting in self.settings)]


ARMS = {
    STEERING: Arm("SteeringVectors", (0.05,), ("scale=kl",)),
    "low-rank, rank 1": Arm("LowRankVectors", (0.05,), ("rank=1", "scale=kl")),
    "LoRA, rank 4": Arm("LoRA", (1e-3,), ("rank=4",)),
    "LoRA, rank 1 on down_proj": Arm(
        "LoRA", (1e-3, 3e-3), ("rank=1", "target_modules=[down_proj]")
    ),
    FULL: Arm("FullFinetune", (1e-5, 3e-5, 1e-4)),
    # A unit of `kl` is measured at the layers that are trained, so the rate means the same.
    **{
        f"layer {layer} alone": Arm("SteeringVectors", (0.05,), ("scale=kl", f"layers=[{layer}]"))
        for layer in (4, 10, 16, 22, 28)
    },
}


class Claim:
    """The results so far, in a file, and the runs behind them.

    Args:
        args: Options of the command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.of = {"model": Path(args.model).name, "steps": args.steps}
        self.rates: dict[str, dict[str, float]] = {}
        self.runs: list[Result] = []
        with self.alone():
            self.read()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes away from the file."""
        folder = self.args.json.parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> None:
        """Takes what is in the file, to which other processes add as well."""
        if not self.args.json.exists():
            return
        known = json.loads(self.args.json.read_text())
        if known["of"] != self.of:
            sys.exit(f"{self.args.json} is of {known['of']}: give these, or another --json")
        self.rates, self.runs = known["rates"], known["runs"]

    def has(self, arm: str, seed: int, rate: float | None = None) -> bool:
        """Whether a result is there; one that was measured at another rate is none."""
        key = (arm, seed, rate)
        return any((run["arm"], run["seed"], run["rate"]) == key for run in self.runs)

    def add(self, run: Result) -> None:
        """Keeps a result, in the file, too."""
        with self.alone():
            self.read()
            same = (run["arm"], run["seed"])
            others = [other for other in self.runs if (other["arm"], other["seed"]) != same]
            self.runs = sorted([*others, run], key=place_of)
            self.save()
        print(
            f"seed {run['seed']}  {run['arm']:<26} {run['before']:.1%} -> {run['after']:.1%} "
            f"[{run['low']:.1%}, {run['high']:.1%}]  {run['seconds']:.0f} s",
            flush=True,
        )

    def save(self) -> None:
        """Writes the file and the picture."""
        args, found = self.args, gains(self.runs)
        full = found.get(FULL)
        result = {
            "of": self.of,
            "rates": self.rates,
            "chosen": {name: best_of(rates) for name, rates in self.rates.items()},
            "gains": found,
            "recovered": {name: gain / full for name, gain in found.items()} if full else {},
            "runs": self.runs,
        }
        write_json(args.json, result)
        if self.runs:
            draw(self.runs, args.json.with_suffix(".png"))

    # ---- commands

    def command(self, *words: str) -> None:
        """Runs the real command line."""
        command = [sys.executable, "-m", "steer_lightning", *words]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(f"failed: {' '.join(command)}")

    def settings(self, root: Path) -> list[str]:
        """What all runs have in common."""
        args = self.args
        words = [f"--config={ROOT / 'configs/svamp/smollm2-135m-cpu.yaml'}"]
        words += [f"--model.base={args.model}", f"--trainer.default_root_dir={root}"]
        words += [f"--trainer.max_steps={args.steps}", "--trainer.callbacks=[]"]
        words += [f"--trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}"]
        if args.data:
            words += [f"--data.{part}.path={args.data}" for part in ("train", "val")]
        return words

    def train(self, arm: Arm, rate: float, seed: int, root: Path) -> None:
        """Trains an arm, or goes on with it."""
        if not list(root.glob("run-*/summary.json")):
            words = [*arm.words(rate), f"--seed_everything={seed}"]
            words += ["--ckpt_path=last"] if list(root.glob("run-*/checkpoints/last.ckpt")) else []
            self.command("fit", *self.settings(root), *words)

    def accuracy(self, found: Path) -> tuple[Result, Result]:
        """Rows of base and steered model on the test problems, at temperature 1."""
        output = found / "sampled"
        config = ROOT / "configs/evaluate/svamp-smollm2.yaml"
        words = [f"--config={config}", f"--vectors={found}", f"--base={self.args.model}"]
        words += [f"--device={self.args.device}"]
        if self.args.data:
            words += [f"--benchmarks.svamp.init_args.path={self.args.data}"]
        self.command("evaluate", *words, f"--output={output}")
        rows = json.loads((output / "results.json").read_text())["rows"]
        base, steered = (row for row in rows if row["metric"] == "avg@4")
        return base, steered

    def measure(self, arm: str, seed: int, found: Path, rate: float | None = None) -> None:
        """Evaluates a run, or vectors that were not trained, and keeps the result."""
        base, steered = self.accuracy(found)
        is_run = (found / "summary.json").exists()
        steps = steps_of(found.parent) if is_run else []
        self.add(
            {
                "arm": arm,
                "seed": seed,
                "rate": rate,
                "before": base["value"],
                "after": steered["value"],
                "low": steered["low"],
                "high": steered["high"],
                "difference": steered["difference"],
                "difference_low": steered["difference_low"],
                "difference_high": steered["difference_high"],
                "trained": summary(found)["trained_parameters"] if is_run else 0,
                "seconds": round(sum(float(row["speed/step_seconds"]) for row in steps)),
                **{key: origin()[key] for key in ("commit", "machine")},
            }
        )

    # ---- what is measured

    def run_of(self, name: str, rate: float, seed: int) -> Path:
        """Returns the folder of an arm's run, which is trained if it is not there."""
        root = self.args.work / f"{slug(name)}-{rate:g}-{seed}"
        self.train(ARMS[name], rate, seed, root)
        return root

    def find_rate(self, name: str) -> float:
        """Returns the rate with the highest reward, in runs with the first seed."""
        for rate in ARMS[name].rates:
            if str(rate) not in self.rates.get(name, {}):
                rewards = [
                    float(row["reward/mean"]) for row in steps_of(self.run_of(name, rate, 0))
                ]
                self.add_rate(name, rate, statistics.fmean(rewards[len(rewards) // 2 :]))
        return best_of(self.rates[name])

    def add_rate(self, name: str, rate: float, reward: float) -> None:
        """Keeps the reward of an arm's run with the first seed, in the file, too."""
        with self.alone():
            self.read()
            self.rates.setdefault(name, {})[str(rate)] = reward
            self.save()
        print(f"{name} at {rate:g}: reward {reward:.3f}", flush=True)

    def train_all(self) -> None:
        """Each arm with each seed, and vectors without training."""
        for seed in range(self.args.seeds):
            for name in self.args.arms or [*ARMS, TRAINING_FREE]:
                rate = None if name == TRAINING_FREE else self.find_rate(name)
                if self.has(name, seed, rate):
                    continue
                if rate is None:
                    self.measure(name, seed, self.difference(seed))
                else:
                    self.measure(name, seed, finished(self.run_of(name, rate, seed)), rate)

    def difference(self, seed: int) -> Path:
        """Returns the folder of vectors without training, which are made if they are not there."""
        root: Path = self.args.work / f"training-free-{seed}"
        words = [f"--seed_everything={seed}", f"--output={root}"]
        words += ["--num_prompts=200", "--num_held_out=200"]
        words += ["--scales=[0.0025,0.005,0.01,0.02]"]  # those that are trained are 0.006 to 0.011
        if not (root / "difference.json").exists():
            self.command("difference", *self.settings(root), *words)
        return root

    def train_layers(self) -> None:
        """Vectors in each layer alone, side by side on one base."""
        if STEERING not in self.rates:
            sys.exit(f"no rate of {STEERING} has been tried: train this arm first")
        root = self.args.work / "layers"
        rate = best_of(self.rates[STEERING])
        words = ARMS[STEERING].words(rate)
        self.command("sweep", *self.settings(root), "--each-layer", *words)
        for file in sorted(root.glob("*/run-*/summary.json")):
            name = layer_arm(file.parent.parent.name)
            if not self.has(name, 0, rate):
                self.measure(name, 0, file.parent, rate)


def layer_arm(experiment: str) -> str:
    """Name of the arm that trains the layer of an experiment of `--each-layer`."""
    return f"layer {int(experiment.removeprefix('layer-'))} alone"


def place_of(run: Result) -> tuple[int, int]:
    """Key that sorts results by seed and arm, whichever was there first."""
    names = [*ARMS, TRAINING_FREE]  # `--all-layers` adds arms that are not among them
    place = names.index(run["arm"]) if run["arm"] in names else len(names)
    return run["seed"], place


def slug(name: str) -> str:
    """Name of an arm as the name of a folder."""
    return name.replace(",", "").replace(" ", "-").lower()


def best_of(rates: dict[str, float]) -> float:
    """The rate with the highest reward."""
    return float(max(rates, key=lambda rate: rates[rate]))


def draw(runs: list[Result], path: Path) -> None:
    """Accuracy of each run with its interval, below that of the base."""
    names = list(dict.fromkeys(run["arm"] for run in runs))
    figure = Figure(figsize=(8, 1 + 0.4 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        mine = [run for run in runs if run["arm"] == name]
        for number, run in enumerate(mine):
            height = place + 0.2 * (number - (len(mine) - 1) / 2)
            axes.plot(
                [100 * run["low"], 100 * run["high"]], [height, height], color="C0", alpha=0.5
            )
            axes.plot(100 * run["after"], height, "o", color="C0")
    before = 100 * statistics.fmean(run["before"] for run in runs)
    axes.axvline(before, color="gray", linestyle="--", linewidth=1, label=f"base, {before:.1f} %")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("right answers to SVAMP's test problems at temperature 1, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measures what is asked for and not yet there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of scripts/prepare_smollm2.py")
    parser.add_argument("--data", help="folder with train.jsonl and test.jsonl; default: the hub")
    parser.add_argument("--all-layers", action="store_true", help="train every layer alone")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, TRAINING_FREE], help="only these")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/claim-real"), help="for the runs")
    results = ROOT / "benchmarks/results/claim_real.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.model = str(Path(args.model).absolute())
    args.data = str(Path(args.data).absolute()) if args.data else None
    claim = Claim(args)
    if args.all_layers:
        claim.train_layers()
    else:
        claim.train_all()


if __name__ == "__main__":
    main()
