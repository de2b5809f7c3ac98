"""Peak memory and time of the update, against vocabulary and against completion length.

    python benchmarks/memory.py --model gemma3-270m
    python benchmarks/memory.py --model quickstart

Made-up completions of a given length, all with an advantage. Memory is what the process takes at
its peak beyond the loaded model; for each setting in a process of its own.
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

import torch
from common import (
    add_arguments,
    peak_memory,
    reset_peak_memory,
    resolve_model,
    results_file,
    write_json,
)
from transformers import LlamaConfig, LlamaForCausalLM

from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.testing import byte_tokenizer
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.types import Problem, Prompt, Rollouts

VOCABULARIES = (4_096, 32_768, 262_144)
LENGTHS = (64, 128, 256, 512)
PROMPT_TOKENS = 32


def policy_of_vocabulary(size: int) -> Policy:
    """A small model, of which the vocabulary alone varies."""
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    policy = Policy("made up")
    policy.tokenizer = byte_tokenizer()
    policy.adopt(LlamaForCausalLM(config))
    return policy


def made_up(policy: Policy, rows: int, length: int) -> Rollouts:
    """Completions of random tokens, four of each prompt."""
    size = min(4, rows)
    problem = Problem(question="", answer="")
    ids = torch.randint(policy.model.config.vocab_size, (rows // size, PROMPT_TOKENS))
    prompts = tuple(
        Prompt(id=k, problem=problem, text="", token_ids=tuple(row))
        for k, row in enumerate(ids.tolist())
    )
    return Rollouts(
        prompts=prompts,
        group_size=size,
        completion_ids=torch.randint(policy.model.config.vocab_size, (rows, length)),
        completion_mask=torch.ones(rows, length, dtype=torch.bool),
        logprobs=torch.zeros(rows, length),
        finished=torch.ones(rows, dtype=torch.bool),
        texts=("",) * rows,
    )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One setting, in this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.vocabulary:
        policy = policy_of_vocabulary(args.vocabulary)
    else:
        policy = Policy(resolve_model(args.model), dtype="float32")
        policy.load()
    gradient = BatchGradient(
        policy=policy,
        loss=PolicyGradient(),
        temperature=1.0,
        max_tokens=args.tokens_per_micro_batch,
        activation_checkpointing=args.activation_checkpointing,
    )
    advantages = torch.ones(args.rows, 1).view(-1, min(4, args.rows))
    warm_up = Batch.alone(made_up(policy, 4, 8), torch.ones(1, 4))
    gradient.accumulate(gradient.plan(warm_up))
    reset_peak_memory("cpu")
    before = peak_memory("cpu")
    rollouts = made_up(policy, args.rows, args.length)
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages)))
        seconds.append(time.perf_counter() - start)
    return {"peak_mb": peak_memory("cpu") - before, "seconds": statistics.median(seconds)}


def in_a_process(args: argparse.Namespace, **setting: Any) -> dict[str, float]:
    """The same in a process of its own."""
    values = {**vars(args), **setting, "one": True}
    words = [sys.executable, str(Path(__file__))]
    for key, value in values.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value not in (False, None):
            words += [flag, str(value)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{key} {value}" for key, value in setting.items())
    print(f"{shown}: {found['peak_mb']:.0f} MB, {found['seconds']:.2f} s", flush=True)
    return {**setting, **found}


def main() -> None:
    """Measures all settings, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=1)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512, help="tokens of a completion")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=2048)
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--vocabulary", type=int, help="of a made-up model instead of --model")
    parser.add_argument("--one", action="store_true", help="this setting alone, as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    longest = 448 if args.model == "quickstart" else max(LENGTHS)
    lengths = [length for length in LENGTHS if length <= longest]
    result = {
        "model": args.model,
        "rows": args.rows,
        "tokens_per_micro_batch": args.tokens_per_micro_batch,
        "by_vocabulary": [in_a_process(args, vocabulary=size, length=128) for size in VOCABULARIES],
        "by_length": [in_a_process(args, length=length) for length in lengths],
        "checkpointed": in_a_process(args, length=lengths[-1], activation_checkpointing=True),
    }
    write_json(results_file(args, "memory"), result)


if __name__ == "__main__":
    main()
