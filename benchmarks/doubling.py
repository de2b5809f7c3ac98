"""Time of a step's rollout and update when completions double in length.

    python benchmarks/doubling.py --model quickstart

No token ends a completion, so that each runs to the limit; all have an advantage.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from common import add_arguments, prompts_for, resolve_model, results_file, write_json

from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient

LENGTHS = (32, 64, 128, 256)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = Policy(resolve_model(args.model), dtype="float32")
    policy.load()
    policy.eos_token_ids = ()
    engine = DecodeEngine()
    engine.setup(policy)
    gradient = BatchGradient(
        policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=16_384
    )
    prompts = prompts_for(args.model, policy.tokenizer, args.prompts, None)
    advantages = torch.ones(args.prompts, args.group_size)
    times: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for step in range(args.steps + 1):  # the first one warms up
        for length in LENGTHS:  # in turn
            sampling = Sampling(group_size=args.group_size, max_new_tokens=length)
            start = time.perf_counter()
            rollouts = engine.generate(prompts, sampling, seed=0, step=step)
            gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
            times[length].append(time.perf_counter() - start)
    medians = {length: statistics.median(values[1:]) for length, values in times.items()}
    rows = [
        {"length": b, "seconds": medians[b], "ratio": medians[b] / medians[a]}
        for a, b in itertools.pairwise(LENGTHS)
    ]
    for row in rows:
        print(f"{row['length']} tokens: {row['seconds']:.3f} s, {row['ratio']:.2f} x the half")
    write_json(
        results_file(args, "doubling"),
        {"model": args.model, "first_seconds": medians[LENGTHS[0]], "rows": rows},
    )


if __name__ == "__main__":
    main()
