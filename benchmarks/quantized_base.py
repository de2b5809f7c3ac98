"""Measures what a base takes in memory and how far its log-probabilities move with fewer bits.

    python benchmarks/quantized_base.py --model MODEL

The base is read in float32, and again in bfloat16, in 8 bits and in 4. Each reading is compared
with float32 on the text that comes with the package: the KL of the distributions of the next
token, and the change of the log-probability of the token that follows.
"""

from __future__ import annotations

import argparse
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from common import add_arguments, resolve_model, results_file, write_json

from steer_lightning.model.head import kl
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization, num_bytes

READINGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "8 bits": {"dtype": "float32", "quantization": Quantization(bits=8)},
    "4 bits": {"dtype": "float32", "quantization": Quantization(bits=4)},
    "bfloat16, 8 bits": {"dtype": "bfloat16", "quantization": Quantization(bits=8)},
    "bfloat16, 4 bits": {"dtype": "bfloat16", "quantization": Quantization(bits=4)},
}


def logprobs_of(policy: Policy, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of all tokens at each place, (rows, T, V) float32."""
    with torch.inference_mode(), policy.at_scale(0.0):
        return policy.logits(ids, torch.ones_like(ids), ids.shape[1]).float().log_softmax(-1)


def main() -> None:
    """Reads the base in each precision, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=0)
    parser.add_argument("--rows", type=int, default=8, help="texts")
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = (files("steer_lightning") / "assets/neutral.txt").read_text(encoding="utf-8")
    reference = torch.empty(0)
    rows: list[dict[str, Any]] = []
    for name, options in READINGS.items():
        policy = Policy(resolve_model(args.model), **options)
        policy.load()
        tokens = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor(tokens[: args.rows * args.tokens]).view(args.rows, args.tokens)
        start = time.perf_counter()
        found = logprobs_of(policy, ids)
        seconds = time.perf_counter() - start
        reference = found if name == "float32" else reference
        picked = [x[:, :-1].gather(-1, ids[:, 1:, None]) for x in (found, reference)]
        row = {
            "reading": name,
            "megabytes": num_bytes(policy.model) / 2**20,
            "mean_kl": float(kl(reference, found).mean()),
            "mean_logprob_change": float((picked[0] - picked[1]).abs().mean()),
            "same_argmax": float((found.argmax(-1) == reference.argmax(-1)).float().mean()),
            "mean_logprob": float(picked[0].mean()),
            "seconds": seconds,
        }
        rows.append(row)
        figures = [f"{key} {value:.5g}" for key, value in row.items() if key != "reading"]
        print("  ".join([name, *figures]), flush=True)
        del policy, found
    facts = {"model": Path(args.model).name, "texts": args.rows, "tokens": args.tokens}
    write_json(results_file(args, "quantized_base"), {**facts, "readings": rows})


if __name__ == "__main__":
    main()
