r"""Eight experiments in one sweep against eight runs of `fit`, one after the other.

    python benchmarks/sweep.py                           # the quickstart: 2 rates x 4 seeds
    python benchmarks/sweep.py --model gemma3-270m       # 2 prompts x 4 completions x 32 tokens
    python benchmarks/sweep.py --model FOLDER --steps 5
    python benchmarks/sweep.py --model FOLDER --device cuda --dtype bfloat16 \
        --prompts 4 --group-size 8

Real commands, in turns: in each round the sweep and then all eight runs. Seconds are those of the
whole commands, without evaluation; ratios are medians over the rounds. Memory is the largest sum of
proportional set sizes of a command and its reward workers (Linux), looked at twice a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from common import ROOT, add_arguments, add_device, resolve_model, results_file, write_json

RATE, SEED = "model.optimizer.init_args.lr", "seed_everything"
SEEDS = [0, 1, 2, 3]


def settings(args: argparse.Namespace, folder: Path) -> tuple[list[str], list[float]]:
    """What both sides have in common, as words of the command line, and two learning rates.

    Args:
        args: Of `main`.
        folder: Folder for a file that the words name.
    """
    accelerator = "gpu" if args.device == "cuda" else "cpu"
    common: dict[str, Any] = {"trainer": {"callbacks": [], "accelerator": accelerator}}
    common["model"] = {"dtype": args.dtype}
    rates = [0.01, 0.02]
    if args.model != "quickstart":
        rates = [0.0003, 0.001]
        template = "Question: {question} = ?\nAnswer:"
        sampling = {"group_size": args.group_size, "max_new_tokens": args.new_tokens}
        common["model"].update(base=resolve_model(args.model), sampling=sampling)
        common["data"] = {"template": {"init_args": {"text": template}}, "batch_size": args.prompts}
    file = folder / "common.yaml"
    file.write_text(yaml.safe_dump(common))
    return ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(file)], rates


def proportional_memory(pid: int) -> float:
    """Memory of a process and all that it has started, in MB; shared pages count once."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return total / 1024


def command(threads: int, words: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds and its peak of memory in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "steer_lightning", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    peaks = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peaks.append(proportional_memory(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        sys.exit(errors)
    return seconds, max(peaks)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=0)
    add_device(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=2, help="of a step; not for quickstart")
    parser.add_argument("--group-size", type=int, default=4, help="not for quickstart")
    parser.add_argument("--new-tokens", type=int, default=32, help="not for quickstart")
    args = parser.parse_args()
    steps = args.steps or (60 if args.model == "quickstart" else 10)
    rounds = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            words, rates = settings(args, Path(folder))
            words += [f"--trainer.max_steps={steps}", "--trainer.enable_progress_bar=false"]
            root = f"--trainer.default_root_dir={folder}"
            grids = [f"--grid={RATE}={rates}", f"--grid={SEED}={SEEDS}"]
            sweep, sweep_memory = command(args.threads, ["sweep", *words, f"{root}/s", *grids])
            single = [
                command(
                    args.threads, ["fit", *words, f"{root}/f", f"--{RATE}={rate}", f"--{SEED}={s}"]
                )
                for rate, s in product(rates, SEEDS)
            ]
        seconds = [one for one, _ in single]
        memory = statistics.median(peak for _, peak in single)
        rounds.append(
            {
                "sweep_seconds": round(sweep, 2),
                "fit_seconds": [round(one, 2) for one in seconds],
                "sweep_memory_mb": round(sweep_memory),
                "fit_memory_mb": round(memory),
                "ratio_time": round(sweep / sum(seconds), 3),
                "times_one": round(sweep / statistics.median(seconds), 2),
                "ratio_memory": round(sweep_memory / memory, 3),
            }
        )
        print(f"round {number + 1}: {rounds[-1]}", flush=True)
    result = {
        "model": args.model,
        "steps": steps,
        "threads": args.threads,
        "experiments": len(rounds[0]["fit_seconds"]),
        "ratio_time": statistics.median(one["ratio_time"] for one in rounds),
        "ratio_memory": statistics.median(one["ratio_memory"] for one in rounds),
        "times_one": statistics.median(one["times_one"] for one in rounds),
        "rounds": rounds,
    }
    print(f"time {result['ratio_time']} x, memory {result['ratio_memory']} x that of single runs")
    write_json(results_file(args, "sweep"), result)


if __name__ == "__main__":
    main()
