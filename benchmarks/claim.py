"""The claim in miniature: how much of full fine-tuning's gain do a few vectors recover?

    python benchmarks/claim.py             # three seeds
    python benchmarks/claim.py --quick     # one seed
    python benchmarks/claim.py --jobs 8    # so many runs at a time, of --threads threads each

The quickstart, its model, data, steps and everything else as they are, with each kind of what is
trained; and vectors that are not trained at all. Accuracy is that on 512 problems which no run has
seen. `recovered` is the share of full fine-tuning's gain that steering vectors reach, both gains
being means over the seeds. Arms that train vectors run in one sweep, side by side. Seconds are
those of the whole command; those of the sweep are divided equally among its experiments.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, gains, label_by_numbers, picture, summary, write_json

KINDS = "steer_lightning.steering"
STEERING, FULL, TRAINING_FREE = "steering vectors", "full fine-tuning", "training-free vectors"
LAYERS = range(4)
Run = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What is trained, and how fast.

    The rates were chosen among two or three on another seed, 100; none was chosen finely, and those
    of SMoA and READ are the only ones that were tried.
    """

    kind: str
    rate: float
    settings: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """For the command line."""
        words = [
            f"--model.steering={KINDS}.{self.kind}",
            f"--model.optimizer.init_args.lr={self.rate}",
        ]
        return [*words, *(f"--model.steering.init_args.{setting}" for setting in self.settings)]


ARMS = {
    STEERING: Arm("SteeringVectors", 0.02),
    "low-rank, rank 1": Arm("LowRankVectors", 0.02, ("rank=1",)),
    "LoRA, rank 4": Arm("LoRA", 0.003, ("rank=4",)),
    "LoRA, rank 1 on down_proj": Arm("LoRA", 0.01, ("rank=1", "target_modules=[down_proj]")),
    "VeRA, rank 64": Arm("VeRA", 0.05, ("rank=64",)),
    "LoReFT, rank 1": Arm("LoReFT", 0.005, ("rank=1",)),
    "READ, rank 8": Arm("READ", 0.01, ("rank=8",)),
    "SMoA, rank 1, 2 parts": Arm("SMoA", 0.02, ("rank=1",)),
    FULL: Arm("FullFinetune", 0.0003),
    **{f"layer {k} alone": Arm("SteeringVectors", 0.02, (f"layers=[{k}]",)) for k in LAYERS},
}


SIDE_BY_SIDE = [name for name, arm in ARMS.items() if arm.kind.endswith("Vectors")]
"""Arms that `sweep` can train on one base."""


def command(folder: Path, threads: int, *words: str) -> float:
    """Runs the real command line; returns its seconds."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "steer_lightning", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr}")
    return time.perf_counter() - start


def common_words(args: argparse.Namespace, folder: Path) -> list[str]:
    """What `fit` and `sweep` have in common."""
    words = [f"--config={ROOT / 'configs/quickstart.yaml'}"]
    words += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    return [*words, *([f"--trainer.max_steps={args.steps}"] if args.steps else [])]


def train(name: str, seed: int, args: argparse.Namespace, folder: Path) -> Run:
    """One run of one arm."""
    words = [*common_words(args, folder), *ARMS[name].words, f"--seed_everything={seed}"]
    seconds = command(ROOT, args.threads, "fit", *words)
    return facts_of(name, seed, folder / "run-1", seconds)


def train_side_by_side(args: argparse.Namespace, folder: Path) -> list[Run]:
    """All runs of all arms that train vectors."""
    pairs = [(name, seed) for seed in range(args.seeds) for name in SIDE_BY_SIDE]
    experiments = []
    for number, (name, seed) in enumerate(pairs):
        settings = (word.removeprefix("--").split("=", 1) for word in ARMS[name].words)
        values = {key: yaml.safe_load(value) for key, value in settings}
        experiments.append({"name": f"e{number}", "seed_everything": seed, **values})
    folder.mkdir()
    file = folder / "experiments.yaml"
    file.write_text(yaml.safe_dump(experiments))
    words = [*common_words(args, folder), f"--experiments={file}"]
    seconds = command(ROOT, args.threads, "sweep", *words) / len(pairs)
    return [
        facts_of(name, seed, folder / f"e{number}" / "run-1", seconds)
        for number, (name, seed) in enumerate(pairs)
    ]


def facts_of(name: str, seed: int, run: Path, seconds: float) -> Run:
    """What a run's summary says."""
    facts = summary(run)
    return {
        "arm": name,
        "seed": seed,
        "before": facts["accuracy_before"]["arithmetic"],
        "after": facts["accuracy_after"]["arithmetic"],
        "trained": facts["trained_parameters"],
        "optimizer_bytes": facts["optimizer"]["state_bytes"],
        "seconds": seconds,
    }


def find(name: str, seed: int, args: argparse.Namespace, folder: Path) -> Run:
    """Training-free vectors: the difference of means, with the scale found on training problems."""
    words = [f"--config={ROOT / 'configs/quickstart.yaml'}", f"--seed_everything={seed}"]
    words += ["--num_prompts=32", "--num_held_out=32"] if args.steps else []
    seconds = command(ROOT, args.threads, "difference", *words, f"--output={folder}")
    file = folder / "steering_vectors.safetensors"
    words = [f"--config={ROOT / 'configs/evaluate/quickstart.yaml'}", f"--vectors={file}"]
    words += ["--benchmarks.arithmetic.init_args.num_problems=512", "--sampling.group_size=1"]
    words += ["--scales=[1.0]", f"--seed={seed}", f"--output={folder / 'scores'}"]
    seconds += command(ROOT, args.threads, "evaluate", *words)
    rows = json.loads((folder / "scores/results.json").read_text())["rows"]
    before, after = (row["value"] for row in rows if row["metric"] == "avg@1")
    found = {"arm": name, "seed": seed, "before": before, "after": after}
    return {**found, "trained": 0, "optimizer_bytes": 0, "seconds": seconds}


def run_all(args: argparse.Namespace) -> list[Run]:
    """Every arm with every seed."""
    alone = [name for name in [*ARMS, TRAINING_FREE] if name not in SIDE_BY_SIDE]
    tasks = [(name, seed) for seed in range(args.seeds) for name in alone]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:

        def one(task: tuple[str, int]) -> list[Run]:
            name, seed = task
            make: Callable[..., Run] = find if name == TRAINING_FREE else train
            return shown(
                [make(name, seed, args, Path(folder) / f"{name} {seed}".replace(" ", "_"))]
            )

        together = pool.submit(lambda: shown(train_side_by_side(args, Path(folder) / "sweep")))
        runs = [run for found in pool.map(one, tasks) for run in found] + together.result()
    order = [*ARMS, TRAINING_FREE]
    return sorted(runs, key=lambda run: (run["seed"], order.index(run["arm"])))


def shown(runs: list[Run]) -> list[Run]:
    """Prints runs, and returns them."""
    for run in runs:
        print(
            f"seed {run['seed']}  {run['arm']:<26} {run['before']:.1%} -> {run['after']:.1%}  "
            f"{run['trained']:,} numbers  {run['seconds']:.0f} s",
            flush=True,
        )
    return runs


def draw(runs: Sequence[Run], path: Path) -> None:
    """Accuracy against how many numbers are trained."""
    figure, axes = picture()
    for name in gains(runs):
        mine = [run for run in runs if run["arm"] == name]
        across = [max(run["trained"], 1) for run in mine]
        after = [100 * run["after"] for run in mine]
        marker = "s" if name == TRAINING_FREE else "^" if name.endswith("alone") else "o"
        label = f"{name}, {statistics.fmean(after):.1f} %"
        axes.plot(across, after, marker, alpha=0.7, label=label)
    label_by_numbers(axes, runs)
    axes.set_xlim(0.5, 5e6)
    axes.set_xlabel("trained numbers (those of training-free vectors, 0, at the left)")
    figure.savefig(path)


def main() -> None:
    """Runs, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: the quickstart's own")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    results = ROOT / "benchmarks/results/claim.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    args.seeds = 1 if args.quick else args.seeds
    runs = run_all(args)
    found = gains(runs)
    recovered = {name: gain / found[FULL] for name, gain in found.items()} if found[FULL] else {}
    result = {
        "recovered": recovered.get(STEERING),
        "recovered_by": recovered,
        "rates": {name: arm.rate for name, arm in ARMS.items()},
        "runs": runs,
    }
    for name, gain in found.items():
        share = f"{recovered[name]:.0%} of full fine-tuning's" if recovered else ""
        print(f"{name:<26} {100 * gain:+.1f} points  {share}")
    write_json(args.json, result)
    draw(runs, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
