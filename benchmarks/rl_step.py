"""A whole reinforcement-learning step, ours against TRL's RLOOTrainer with PEFT's BeftConfig.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/rl_step.py --peer trl --model quickstart
    python benchmarks/rl_step.py --peer trl --model gemma3-270m --prompts 4

Each side is a process of its own on the same model, prompts, group size, token limit, threads and
seed; they take their steps in turn. Both train one vector a layer (a bias of `down_proj` on the
peer's side) with summed or averaged log-probabilities as is their way; the learning rate is next to
nothing, so that both go on sampling from the same distribution. `limit` is the time of the bare
matrix products of our step; `ratio_limit` is the ratio that no code on this machine could exceed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import add_arguments, add_device, resolve_model, results_file, write_json

PARTS = ("rollout", "reward", "update", "step", "peak_memory_mb", "tokens")


class Side:
    """A process that takes a step when told so."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        worker = Path(__file__).with_name("step_worker.py")
        words = [sys.executable, str(worker), name, f"--model={args.model}"]
        words += [f"--threads={args.threads}", f"--prompts={args.prompts}"]
        words += [f"--group-size={args.group_size}", f"--new-tokens={args.new_tokens}"]
        words += [f"--device={args.device}", f"--dtype={args.dtype}"]
        self.errors = Path(f"/tmp/rl_step_{name}.log").open("w")  # noqa: SIM115  # lives with us
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.name = name

    def step(self) -> dict[str, float]:
        """Takes one step; the others wait."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        time.sleep(0.5)  # threads of the other side spin for a while after their last operation
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} stopped; see {self.errors.name}")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    add_device(parser)
    parser.add_argument("--peer", choices=["trl"], default="trl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    resolve_model(args.model)
    names = ("ours", args.peer)
    sides = {name: Side(name, args) for name in names}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        for step in range(args.steps + 1):  # the first one warms up
            for name, side in sides.items():
                taken[name].append(side.step())
                found = taken[name][-1]
                shown = "  ".join(f"{part} {found[part]:.3f}" for part in PARTS)
                print(f"step {step}  {name:<5} {shown}", flush=True)
    finally:
        for side in sides.values():
            side.close()
    medians = {
        name: {part: statistics.median(s[part] for s in steps[1:]) for part in PARTS}
        for name, steps in taken.items()
    }
    for values in medians.values():
        values["rollout_tokens_per_second"] = values["tokens"] / values["rollout"]
    limit = statistics.median(step["limit"] for step in taken["ours"][1:])
    mine, theirs = medians["ours"], medians[args.peer]
    result: dict[str, Any] = {
        "model": args.model,
        "prompts": args.prompts,
        "group_size": args.group_size,
        "new_tokens": args.new_tokens,
        "device": args.device,
        "dtype": args.dtype,
        **{f"ratio_{part}": theirs[part] / mine[part] for part in ("step", "rollout", "update")},
        "ratio_peak_memory": theirs["peak_memory_mb"] / mine["peak_memory_mb"],
        "ratio_limit": theirs["step"] / limit,
        "limit": limit,
        "medians": medians,
    }
    print("  ".join(f"{k} {v:.2f}" for k, v in result.items() if k.startswith("ratio")))
    write_json(results_file(args, "rl_step"), result)


if __name__ == "__main__":
    main()
