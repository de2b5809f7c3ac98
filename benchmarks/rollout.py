"""How fast the decode engine is, against `transformers.generate` and against the machine.

    python benchmarks/rollout.py --model quickstart
    python benchmarks/rollout.py --model gemma3-270m

Both engines answer the same prompts of 256 tokens with the same random numbers, in turn; they give
the same tokens. The machine's limit is the time of the bare matrix products that these tokens need:
every weight matrix of the model, with as many rows as are in flight, and nothing else.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from common import (
    add_arguments,
    add_device,
    now,
    prompts_for,
    resolve_model,
    results_file,
    write_json,
)
from limit import BareProducts, rollout_passes

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    add_device(parser)
    parser.add_argument("--prompts", type=int, help="default: 32, or 4 for larger models")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = Policy(resolve_model(args.model), dtype=args.dtype)
    policy.load()
    policy.to(args.device)
    policy.steering.set_vectors(torch.randn_like(policy.steering.vectors) * 1e-3)
    count = args.prompts or (32 if args.model == "quickstart" else 4)
    prompts = prompts_for(args.model, policy.tokenizer, count, args.prompt_tokens)
    sampling = Sampling(group_size=args.group_size, max_new_tokens=args.new_tokens)
    engines = {"ours": DecodeEngine(), "generate": GenerateEngine()}
    times: dict[str, list[float]] = {"ours": [], "generate": [], "limit": []}
    speeds: dict[str, list[float]] = {name: [] for name in times}
    products = BareProducts(policy)
    for engine in engines.values():
        engine.setup(policy)
    for step in range(args.steps + 1):  # the first one warms up
        found = {}
        for name, engine in engines.items():
            start = now(args.device)
            found[name] = engine.generate(prompts, sampling, seed=0, step=step)
            times[name].append(now(args.device) - start)
        times["limit"].append(products.seconds(rollout_passes(found["ours"])))
        lengths = {name: one.completion_mask.sum(1) for name, one in found.items()}
        equal = (lengths["ours"] == lengths["generate"]).float().mean()
        tokens = int(lengths["ours"].sum())
        for name in times:
            speeds[name].append(tokens / times[name][-1])
        print(
            f"step {step}  {tokens} tokens, {equal:.0%} of the rows equally long  "
            + "  ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items()),
            flush=True,
        )
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    result = {
        "model": args.model,
        "seconds": medians,
        "tokens_per_second": {k: statistics.median(v[1:]) for k, v in speeds.items()},
        "ratio_generate": medians["generate"] / medians["ours"],
        "share_of_limit": medians["limit"] / medians["ours"],
    }
    print(
        f"{result['ratio_generate']:.2f} x transformers.generate, "
        f"{result['share_of_limit']:.0%} of the bare matrix products' speed"
    )
    write_json(results_file(args, "rollout"), result)


if __name__ == "__main__":
    main()
