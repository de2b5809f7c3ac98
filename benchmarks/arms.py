"""Claim: arms of an ablation cost less in one flight than one after another.

    python benchmarks/arms.py --threads 1

CPU seconds to answer problems with the quickstart's vectors after some steps of training, and with
five arms beside them: the base, and each of the four layers left out. Both ways take turns. The
answers of both are compared token by token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import add_arguments, fit, prompts_for, results_file, write_json

from steer_lightning import load_vectors
from steer_lightning.evaluation.ablation import ArmSettings, acting_as, arms_of
from steer_lightning.evaluation.arm_answers import ArmAnswers
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.request import Request
from steer_lightning.types import Rollouts


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, steps=5)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[256, 64])
    parser.add_argument("--training-steps", type=int, default=20)
    args = parser.parse_args()
    if args.model != "quickstart":
        parser.error("--model: the vectors are trained on the quickstart")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(Path(folder), f"--trainer.max_steps={args.training_steps}")
        policy = Policy("quickstart", dtype="float32", steering=load_vectors(run))
    policy.load()
    engine = DecodeEngine()
    engine.setup(policy)
    arms = arms_of({"base": ArmSettings(scale=0)}, "each", policy.steering)
    answers = ArmAnswers(policy, engine, arms)
    prompts = prompts_for("quickstart", policy.tokenizer, args.problems, None)
    sampling = Sampling(group_size=1, max_new_tokens=64)

    def together(request: Request) -> list[Rollouts]:
        found = answers.answer([request] * len(arms))
        assert answers.why_not_together() is None
        return found

    def in_turn(request: Request) -> list[Rollouts]:
        found = []
        for arm in arms:
            with acting_as(policy.attachment, arm):
                asked = {"seed": request.seed, "step": request.step}
                found.append(engine.generate(request.prompts, sampling, **asked))
        return found

    rows = []
    for size in args.batch_size:
        times: dict[str, list[float]] = {"together": [], "in_turn": []}
        tokens = different = 0
        for _ in range(args.steps + 1):  # the first one warms up, and checks long texts
            spent = dict.fromkeys(times, 0.0)
            for start in range(0, len(prompts), size):
                batch = prompts[start : start + size]
                request = Request(prompts=batch, sampling=sampling, seed=0, step=EVALUATION_STEP)
                found = {}
                for name, answer in (("together", together), ("in_turn", in_turn)):
                    before = time.process_time()
                    found[name] = answer(request)
                    spent[name] += time.process_time() - before
                for one, two in zip(found["together"], found["in_turn"], strict=True):
                    tokens += int(one.completion_mask.sum())
                    different += sum(a != b for a, b in zip(one.texts, two.texts, strict=True))
            for name, seconds in spent.items():
                times[name].append(seconds)
        medians = {name: statistics.median(found[1:]) for name, found in times.items()}
        ratio = statistics.median(
            a / b for a, b in zip(times["together"][1:], times["in_turn"][1:], strict=True)
        )
        row = {"batch_size": size, **medians, "ratio": ratio, "different_texts": different}
        rows.append({**row, "tokens": tokens // (args.steps + 1)})
        print(rows[-1], flush=True)
    facts = {"model": args.model, "arms": [arm.name for arm in arms], "problems": args.problems}
    write_json(results_file(args, "arms"), {**facts, "rows": rows})


if __name__ == "__main__":
    main()
