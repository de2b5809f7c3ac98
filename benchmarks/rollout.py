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
import time
from collections.abc import Callable

import torch
from common import add_arguments, prompts_for, resolve_model, write_json
from torch import nn

from steer_lightning.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.decode import PREFILL_TOKENS
from steer_lightning.types import Rollouts


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rows_of_steps(rollouts: Rollouts) -> list[int]:
    """Rows in flight at each forward pass after the first token, if none waits for another."""
    lengths = rollouts.num_tokens.tolist()
    return [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def bare_products(policy: Policy, rollouts: Rollouts) -> float:
    """Seconds of the matrix products alone: prompts once, then one row a token."""
    matrices = [m.weight for m in policy.model.modules() if isinstance(m, nn.Linear)]
    head = policy.model.get_output_embeddings().weight
    body = [weight for weight in matrices if weight is not head]
    width = len(rollouts.prompts[0].token_ids)
    passes = [(width * len(rollouts.prompts), len(rollouts.prompts))]
    passes += [(rows, rows) for rows in rows_of_steps(rollouts)]
    inputs: dict[tuple[int, int], torch.Tensor] = {}

    def product(weight: torch.Tensor, rows: int) -> None:
        key = rows, weight.shape[1]
        if key not in inputs:
            inputs[key] = torch.randn(key)
        nn.functional.linear(inputs[key], weight)

    def run() -> None:
        for rows, head_rows in passes:
            for weight in body:
                for first in range(0, rows, PREFILL_TOKENS):
                    product(weight, min(PREFILL_TOKENS, rows - first))
            product(head, head_rows)

    with torch.no_grad():
        run()
        return seconds(run)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, "rollout.json", steps=5)
    parser.add_argument("--prompts", type=int, help="default: 32, or 4 for larger models")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = Policy(resolve_model(args.model), dtype="float32")
    policy.load()
    policy.steering.set_vectors(torch.randn_like(policy.steering.vectors) * 1e-3)
    count = args.prompts or (32 if args.model == "quickstart" else 4)
    prompts = prompts_for(args.model, policy.tokenizer, count, args.prompt_tokens)
    sampling = Sampling(group_size=args.group_size, max_new_tokens=args.new_tokens)
    engines = {"ours": DecodeEngine(), "generate": GenerateEngine()}
    times: dict[str, list[float]] = {"ours": [], "generate": [], "limit": []}
    speeds: dict[str, list[float]] = {name: [] for name in times}
    for engine in engines.values():
        engine.setup(policy)
    for step in range(args.steps + 1):  # the first one warms up
        found = {}
        for name, engine in engines.items():
            start = time.perf_counter()
            found[name] = engine.generate(prompts, sampling, seed=0, step=step)
            times[name].append(time.perf_counter() - start)
        times["limit"].append(bare_products(policy, found["ours"]))
        equal = (found["ours"].num_tokens == found["generate"].num_tokens).float().mean()
        tokens = int(found["ours"].num_tokens.sum())
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
    write_json(args.json.with_stem(f"{args.json.stem}_{args.model.split('/')[-1]}"), result)


if __name__ == "__main__":
    main()
