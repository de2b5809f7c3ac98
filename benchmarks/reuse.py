"""Claim: layers below the first steered one run once for all optimizer steps on a batch.

    python benchmarks/reuse.py --model quickstart

Seconds of an update of 4 passes over one batch, with and without keeping the stream that enters the
first steered layer, by what is steered: all layers, the upper half, the last one.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import add_arguments, prompts_for, resolve_model, results_file, write_json

from steer_lightning.losses import Clip, PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.update import OptimizerSteps, Updater
from steer_lightning.types import Rollouts

PASSES = 4


def seconds(policy: Policy, rollouts: Rollouts, kept_tokens: int) -> float:
    """Returns the seconds of one update; the vectors are put back behind it."""
    weight = policy.steering.weight
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    size = (len(rollouts.prompts), rollouts.group_size)
    batch = Batch.alone(rollouts, torch.randn(size, generator=generator))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    gradient = BatchGradient(
        policy=policy,
        loss=PolicyGradient(objective=Clip()),
        temperature=1.0,
        max_tokens=2048,
        kept_tokens=kept_tokens,
    )
    updater = Updater(
        lambda parameters: torch.zeros(()),
        optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        steps=OptimizerSteps(num_passes=PASSES),
    )
    start = time.perf_counter()
    updater.update(gradient, batch, step=0)
    elapsed = time.perf_counter() - start
    weight.data.copy_(before)
    return elapsed


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    num_layers = int(
        Policy(resolve_model(args.model)).model_config.get_text_config().num_hidden_layers
    )
    for first in (0, num_layers // 2, num_layers - 1):
        layers = list(range(first, num_layers))
        steering = SteeringVectors(layers=layers)
        policy = Policy(resolve_model(args.model), dtype="float32", steering=steering)
        policy.load()
        engine = DecodeEngine()
        engine.setup(policy)
        prompts = prompts_for(args.model, policy.tokenizer, args.prompts, None)
        sampling = Sampling(group_size=args.group_size, max_new_tokens=args.new_tokens)
        rollouts = engine.generate(prompts, sampling, seed=0, step=0)
        times: dict[int, list[float]] = {0: [], 2**40: []}
        for _ in range(args.steps + 1):  # the first one warms up
            for kept_tokens, found in times.items():
                found.append(seconds(policy, rollouts, kept_tokens))
        without, kept = (statistics.median(found[1:]) for found in times.values())
        row = {"first": first, "num_layers": num_layers, "without": without, "kept": kept}
        rows.append(row)
        print(
            f"layers from {first} of {num_layers}: {without:.3f} s, kept {kept:.3f} s", flush=True
        )
    result = {"model": args.model, "passes": PASSES, "rows": rows}
    write_json(results_file(args, "reuse"), result)


if __name__ == "__main__":
    main()
