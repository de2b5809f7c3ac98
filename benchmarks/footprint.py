"""What is trained, kept, saved and handed to the sampler: full fine-tuning, LoRA, and vectors.

    python benchmarks/footprint.py --model gemma3-270m

Bytes are counted on the real objects: an AdamW step is taken with each set of parameters. What is
handed to the sampler is copied into a second model in memory, as an engine of its own would need
it, and timed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Iterable

import bitsandbytes as bnb
import torch
from common import add_arguments, resolve_model, results_file, write_json
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from steer_lightning.model.hub import resolve_base
from steer_lightning.model.policy import Policy
from steer_lightning.optim import state_facts

RANK = 4  # of the paper's baseline


def step(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """One step, which makes the optimizer allocate its state."""
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def measure(
    name: str,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    num_trained: int,
    steps: int,
) -> dict[str, object]:
    """Counts and times one way of training."""
    step(optimizer, parameters)
    checkpoint = io.BytesIO()
    torch.save([p.detach() for p in parameters], checkpoint)
    target = [torch.empty_like(p) for p in parameters]
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        for copy, parameter in zip(target, parameters, strict=True):
            copy.copy_(parameter.detach())
        seconds.append(time.perf_counter() - start)
    found = {
        "way": name,
        "trained_parameters": num_trained,
        "optimizer_bytes": state_facts(optimizer)[0],
        "checkpoint_bytes": checkpoint.getbuffer().nbytes,
        "sampler_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "sampler_seconds": statistics.median(seconds),
    }
    print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def main() -> None:
    """Measures the three ways, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path = resolve_base(resolve_model(args.model))
    ways = []

    policy = Policy(path, dtype="float32")
    policy.load()
    weight = policy.steering.weight
    optimizers = {
        "vectors, AdamW": torch.optim.AdamW([weight]),
        "vectors, AdamW8bit": bnb.optim.AdamW8bit([weight], min_8bit_size=0),
    }
    for name, optimizer in optimizers.items():
        num_trained = policy.steering.num_trained
        ways.append(measure(name, [weight], optimizer, num_trained, args.steps))
    del policy

    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    lora = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear"))
    trained = [p for p in lora.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    ways.append(
        measure(f"LoRA, rank {RANK}", trained, torch.optim.AdamW(trained), count, args.steps)
    )
    full = list(lora.unload().parameters())
    for parameter in full:
        parameter.requires_grad_(True)
    count = sum(p.numel() for p in full)
    ways.append(measure("full", full, torch.optim.AdamW(full), count, args.steps))
    result = {"model": args.model, "ways": ways}
    write_json(results_file(args, "footprint"), result)


if __name__ == "__main__":
    main()
