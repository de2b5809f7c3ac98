"""One side of `rl_step.py`: takes a step when told so, and reports its times and peak memory.

Reads a line for each step from standard input, writes a line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any, TextIO

import torch
from common import add_device, now, peak_memory, prompts_for, reset_peak_memory, resolve_model
from limit import BareProducts, rollout_passes, update_passes

from steer_lightning.rewards import MathReward
from steer_lightning.rewards.scoring import Scoring
from steer_lightning.types import Completion, Prompt

RATE = 1e-6
"""Next to nothing: both sides go on sampling from the base, and do the same work at every step."""


def even(completions: list[Completion]) -> list[float]:
    """1 for an even number of characters: nearly every group has signal, whatever the model."""
    return [float(len(completion.text) % 2 == 0) for completion in completions]


def reward_for(model: str) -> Any:
    """Right answers for the quickstart's model; larger base models give next to none."""
    return MathReward() if model == "quickstart" else even


class Clock:
    """Times of a step's parts, added up."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.parts: dict[str, float] = {}

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Times the calls of a method."""
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now(self.device)
            try:
                return method(*args, **kwargs)
            finally:
                spent = now(self.device) - start
                self.parts[part] = self.parts.get(part, 0.0) + spent

        setattr(owner, name, timed)


class Turns:
    """Waits for the other side before a step, and reports after it."""

    def __init__(self, clock: Clock, output: TextIO) -> None:
        self.clock, self.output = clock, output
        self.tokens = 0

    def begin(self) -> None:
        """Blocks until this side's turn."""
        if not sys.stdin.readline():
            sys.exit(0)
        self.clock.parts.clear()
        self.tokens = 0
        reset_peak_memory(self.clock.device)
        self.start = now(self.clock.device)

    def end(self, limit: Callable[[], float] | None = None) -> None:
        """Reports the step.

        Args:
            limit: Called when the clock has stopped; seconds of the step's bare matrix products.
        """
        step = now(self.clock.device) - self.start
        parts = dict(self.clock.parts)
        parts["update"] = step - parts["rollout"] - parts["reward"]
        peak = peak_memory(self.clock.device)
        found = {**parts, "step": step, "peak_memory_mb": peak, "tokens": self.tokens}
        if limit is not None:
            found["limit"] = limit()
        self.output.write(json.dumps(found) + "\n")
        self.output.flush()


def ours(args: argparse.Namespace, turns: Turns, folder: str) -> None:
    """A run of the product, as `fit` makes it, without the callbacks that write files."""
    import lightning as L

    from steer_lightning import PromptDataModule, SteeringModule
    from steer_lightning.data import PlainTemplate
    from steer_lightning.rewards import WeightedReward
    from steer_lightning.rollout import Sampling
    from steer_lightning.types import Problem

    class Taken:
        def load(self) -> list[Problem]:
            return [prompt.problem for prompt in args.prompts]

    class Wait(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            step = module.last_step
            turns.tokens = int(step.num_tokens.sum())
            passes = rollout_passes(step.rollouts) + update_passes(step.rollouts, step.advantages)
            turns.end(lambda: BareProducts(module.policy).seconds(passes))

    module = SteeringModule(
        base=resolve_model(args.model),
        dtype=args.dtype,
        sampling=Sampling(group_size=args.group_size, max_new_tokens=args.new_tokens),
        rewards=[WeightedReward(reward=reward_for(args.model))],
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0),
    )
    turns.clock.wrap(module.engine, "generate", "rollout")
    turns.clock.wrap(Scoring, "result", "reward")  # what is left of it when the rollout has ended
    data = PromptDataModule(
        Taken(), template=PlainTemplate("{question}"), batch_size=len(args.prompts)
    )
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator=args.device,
        devices=1,
        max_steps=100_000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Wait()],
    )
    trainer.fit(module, data)


def trl(args: argparse.Namespace, turns: Turns, folder: str) -> None:
    """TRL's RLOOTrainer with PEFT's bias on `down_proj`: the same vectors, through `generate`."""
    from datasets import Dataset
    from peft import BeftConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from steer_lightning.model.hub import resolve_base

    verify = reward_for(args.model)

    def reward(prompts: Any, completions: Any, completion_ids: Any, answer: Any, **_: Any) -> Any:
        turns.tokens = sum(map(len, completion_ids))
        rows = [
            Completion(text=text, question="", answer=gold, num_tokens=0, finished=True)
            for text, gold in zip(completions, answer, strict=True)
        ]
        return verify(rows)

    class Wait(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

    path = resolve_base(resolve_model(args.model))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, args.dtype))
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    num_rows = len(args.prompts) * args.group_size
    rows = [{"prompt": p.problem.question, "answer": p.problem.answer} for p in args.prompts]
    trainer = RLOOTrainer(
        model=get_peft_model(model, BeftConfig(target_modules=["down_proj"])),
        reward_funcs=[reward],
        args=RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=num_rows,
            num_generations=args.group_size,
            max_completion_length=args.new_tokens,
            temperature=1.0,
            beta=0.0,
            learning_rate=RATE,
            max_steps=100_000,
            gradient_checkpointing=False,
            bf16=args.dtype == "bfloat16",
            use_cpu=args.device == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Wait()],
    )
    turns.clock.wrap(trainer, "_generate", "rollout")
    turns.clock.wrap(trainer, "_calculate_rewards", "reward")
    trainer.train()


def main() -> None:
    """Runs one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "trl"])
    parser.add_argument("--model", required=True)
    for name in ("threads", "prompts", "group-size", "new-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    output, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    args.prompts = make_prompts(args.model, args.prompts)
    turns = Turns(Clock(args.device), output)
    with tempfile.TemporaryDirectory() as folder:
        {"ours": ours, "trl": trl}[args.side](args, turns, folder)


def make_prompts(model: str, count: int) -> list[Prompt]:
    """The prompts of both sides."""
    from transformers import AutoTokenizer

    from steer_lightning.model.hub import resolve_base

    tokenizer = AutoTokenizer.from_pretrained(resolve_base(resolve_model(model)))
    return prompts_for(model, tokenizer, count, None)


if __name__ == "__main__":
    main()
