"""Claim: with `scale: rms` one learning rate serves streams that differ tenfold and more.

    python benchmarks/one_learning_rate.py --json benchmarks/results/one_learning_rate.json

The second model is the quickstart's with a residual stream `--factor` times as large: embedding and
the matrices that write into the stream are multiplied, and since every reader normalises, it
computes the same function. Both are trained with the same learning rate, in units of the stream
(`rms`) and on plain vectors (`none`). The rate for `none` is the one that equals `rms` on the first
model, on average over its layers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common import fit, summary, write_json
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning.data import Arithmetic
from steer_lightning.model.hub import resolve_base
from steer_lightning.model.policy import Policy


def save_scaled(folder: Path, factor: float) -> None:
    """Saves the quickstart's model with a stream `factor` times as large."""
    base = resolve_base("quickstart")
    model = AutoModelForCausalLM.from_pretrained(base)
    head = model.lm_head.weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)  # reads the normalised stream: stays as it is
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(factor)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(factor)
            layer.mlp.down_proj.weight.mul_(factor)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def stream_size(base: str) -> float:
    """Mean over the layers of the typical activation size."""
    policy = Policy(base)
    policy.load()
    problems = Arithmetic(64).load()
    policy.measure_units([policy.tokenizer(f"{p.question}=?\n")["input_ids"] for p in problems])
    return float(policy.steering.unit.mean())


def main() -> None:
    """Trains both models both ways, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factor", type=float, default=16.0, help="of the second model's stream")
    parser.add_argument(
        "--rate", type=float, default=0.02, help="learning rate in units of the stream"
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    runs: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        scaled = Path(folder) / "scaled"
        save_scaled(scaled, args.factor)
        bases = {"quickstart": "quickstart", f"quickstart, stream x {args.factor:g}": str(scaled)}
        sizes = {name: stream_size(base) for name, base in bases.items()}
        rates = {"rms": args.rate, "none": args.rate * sizes["quickstart"]}
        for scale, rate in rates.items():
            for name, base in bases.items():
                facts = summary(
                    fit(
                        Path(folder) / f"{scale}-{len(runs)}",
                        f"--model.base={base}",
                        f"--model.steering.scale={scale}",
                        f"--model.optimizer.init_args.lr={rate}",
                        f"--trainer.max_steps={args.steps}",
                    )
                )
                found = {
                    "model": name,
                    "stream": round(sizes[name], 3),
                    "scale": scale,
                    "rate": round(rate, 4),
                    "before": facts["accuracy_before"]["arithmetic"],
                    "after": facts["accuracy_after"]["arithmetic"],
                }
                runs.append(found)
                print(
                    f"{name:<26} stream {sizes[name]:8.2f}  scale: {scale:<5} lr {rate:.4f}  "
                    f"accuracy {found['before']:.3f} -> {found['after']:.3f}",
                    flush=True,
                )
    if args.json:
        write_json(args.json, {"runs": runs})


if __name__ == "__main__":
    main()
