"""How fast recent architectures decode in `DecodeEngine`, against `transformers.generate`.

    python benchmarks/hybrids.py

Small random models of each family, whose layers have states, caps, sinks, or compressed or shared
keys. Both engines answer the same prompts, of 128 to 192 tokens, in turn.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from common import ROOT, now, prompts_for, write_json

from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.testing import RECENT, byte_tokenizer, tiny_policy
from steer_lightning.types import Prompt

LENGTHS = (128, 160, 176, 192)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(RECENT), choices=RECENT)
    parser.add_argument("--steps", type=int, default=5, help="measured ones, of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    results = ROOT / "benchmarks/results/hybrids.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sampling = Sampling(group_size=args.group_size, max_new_tokens=args.new_tokens)
    each = -(-args.prompts // len(LENGTHS))
    prompts = [
        prompt
        for length in LENGTHS
        for prompt in prompts_for("quickstart", byte_tokenizer(), each, length)
    ]
    found = {name: measure(name, prompts, sampling, args.steps) for name in args.models}
    write_json(args.json, {"models": found})


def measure(
    architecture: str, prompts: list[Prompt], sampling: Sampling, steps: int
) -> dict[str, float]:
    """Returns the tokens per second of both engines, medians of some rollouts, and their ratio."""
    policy = tiny_policy(architecture, layers=4, width=192)
    engines = {"ours": DecodeEngine(), "generate": GenerateEngine()}
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.setup(policy)
    for step in range(steps + 1):  # the first one warms up
        for name, engine in engines.items():
            start = now("cpu")
            rollouts = engine.generate(prompts, sampling, seed=0, step=step)
            speeds[name].append(int(rollouts.completion_mask.sum(1).sum()) / (now("cpu") - start))
    medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
    ratio = medians["ours"] / medians["generate"]
    print(
        f"{architecture:12}  ours {medians['ours']:7,.0f} tokens/s  "
        f"generate {medians['generate']:7,.0f} tokens/s  {ratio:.2f} x",
        flush=True,
    )
    return {**medians, "ratio": ratio}


if __name__ == "__main__":
    main()
