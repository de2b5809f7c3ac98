"""Claim: arms of an ablation cost less in one flight than one after another.

    python benchmarks/arms.py --threads 1

CPU seconds to answer problems with the quickstart's vectors after some steps of training, and with
five arms beside them: the base, and each of the four layers left out. Both ways take turns. The
answers of both must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
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
from steer_lightning.types import Prompt, Rollouts

SAMPLING = Sampling(group_size=1, max_new_tokens=64)


class Ways:
    """The two ways to answer the same problems by all arms.

    Args:
        policy: Policy with trained vectors.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.engine = policy, DecodeEngine()
        self.engine.setup(policy)
        self.arms = arms_of({"base": ArmSettings(scale=0)}, "each", policy.steering)
        self.answers = ArmAnswers(policy, self.engine, self.arms)

    def together(self, request: Request) -> list[Rollouts]:
        """Answers in one flight."""
        found = self.answers.answer([request] * len(self.arms))
        assert self.answers.why_not_together() is None
        return found

    def in_turn(self, request: Request) -> list[Rollouts]:
        """Answers by one arm after the other, as plain evaluations do."""
        found = []
        for arm in self.arms:
            with acting_as(self.policy.attachment, arm):
                asked = {"seed": request.seed, "step": request.step}
                found.append(self.engine.generate(request.prompts, SAMPLING, **asked))
        return found

    def seconds(self, prompts: list[Prompt], size: int) -> dict[str, float]:
        """CPU seconds of both ways, which take turns for each batch."""
        spent = {"together": 0.0, "in_turn": 0.0}
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            request = Request(prompts=batch, sampling=SAMPLING, seed=0, step=EVALUATION_STEP)
            found = {}
            for name in spent:
                before = time.process_time()
                found[name] = getattr(self, name)(request)
                spent[name] += time.process_time() - before
            texts = [[rollouts.texts for rollouts in answers] for answers in found.values()]
            if texts[0] != texts[1]:
                sys.exit("the two ways have answered differently")
        return spent


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
    ways = Ways(policy)
    prompts = prompts_for("quickstart", policy.tokenizer, args.problems, None)
    rows = []
    for size in args.batch_size:
        # the first round warms up, and checks long texts
        rounds = [ways.seconds(prompts, size) for _ in range(args.steps + 1)][1:]
        medians = {name: statistics.median(x[name] for x in rounds) for name in rounds[0]}
        ratio = statistics.median(x["together"] / x["in_turn"] for x in rounds)
        rows.append({"batch_size": size, **medians, "ratio": ratio})
        print(rows[-1], flush=True)
    names = [arm.name for arm in ways.arms]
    facts = {"model": args.model, "arms": names, "problems": args.problems}
    write_json(results_file(args, "arms"), {**facts, "rows": rows})


if __name__ == "__main__":
    main()
