"""How often right answers are refused, and wrong ones accepted.

    python benchmarks/answers.py                                      # typical gold answers
    python benchmarks/answers.py --golds gsm8k/test.jsonl --column answer
    python benchmarks/answers.py --golds mine.txt                     # kinds in brackets, as below

Each gold answer is written in other ways, which are right, and perturbed, which is wrong; all forms
are scored by `MathReward` in the reward pool, as completions are. The gold answers of the
benchmarks themselves lie on the hub: `benchmarks/data/answer_golds.txt` has some hundred of their
kinds, and `--golds` takes any other file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from answer_perturbations import perturbations
from answer_rewritings import rewritings
from common import ROOT, write_json

from steer_lightning.data import Records
from steer_lightning.rewards import MathReward, RewardPool, RewardSum, WeightedReward
from steer_lightning.types import Completion

MOST_REFUSED, MOST_ACCEPTED = 0.01, 0.005
SHOWN = 40
"""Mistakes that are written down and printed."""


def read_golds(path: Path, column: str) -> list[tuple[str, str]]:
    """Kind and text of each gold answer; numbers alone are taken from a data set."""
    if path.suffix == ".txt":
        kind, found = "", []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("[") and line.endswith("]") and line[1:-1].isalpha():
                kind = line[1:-1]
            elif line and not line.startswith("#"):
                found.append((kind, line))
        return found
    problems = Records(path=str(path), answer_column=column).load()
    answers = dict.fromkeys(p.answer.rpartition("####")[2].strip() for p in problems)
    whole = {text: re.fullmatch(r"-?\d[\d,]*", text) is not None for text in answers}
    return [("integer" if whole[x] else "decimal", x) for x in answers if whole[x] or _plain(x)]


def _plain(text: str) -> bool:
    return re.fullmatch(r"-?\d*\.\d+", text) is not None


def measure(golds: list[tuple[str, str]], workers: int) -> dict[str, Any]:
    """Counts of forms and mistakes, by kind.

    Args:
        golds: Kind and text of each gold answer.
        workers: Processes of the reward pool; 0 scores in this process, without a deadline.
    """
    forms = [(kind, gold, gold, True) for kind, gold in golds]
    forms += [(k, gold, form, True) for k, gold in golds for form in rewritings(k, gold)]
    forms += [(k, gold, form, False) for k, gold in golds for form in perturbations(k, gold)]
    completions = [
        Completion(
            text=rf"So it is \boxed{{{form}}}",
            question="",
            answer=gold,
            num_tokens=1,
            finished=True,
        )
        for _, gold, form, _ in forms
    ]
    pool = RewardPool(num_workers=workers, deadline=20) if workers else None
    with closing(RewardSum([WeightedReward(reward=MathReward())], pool)) as rewards:
        scores = rewards(completions)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    mistakes = []
    for (kind, gold, form, right), score in zip(forms, scores.total, strict=True):
        side = "right" if right else "wrong"
        counts[kind][f"num_{side}"] += 1
        if score != float(right):
            counts[kind][{"right": "refused", "wrong": "accepted"}[side]] += 1
            mistakes.append({"gold": gold, "answer": form, "is": side, "score": score})
    every = sum(counts.values(), Counter[str]())
    return {
        "num_golds": len(golds),
        "num_right": every["num_right"],
        "num_wrong": every["num_wrong"],
        "false_refusals": every["refused"] / max(1, every["num_right"]),
        "false_acceptances": every["accepted"] / max(1, every["num_wrong"]),
        "by_kind": {kind: dict(count) for kind, count in counts.items()},
        "outcomes": scores.outcomes["MathReward"],
        "mistakes": mistakes,
    }


def main() -> None:
    """Measures, prints, and writes down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golds", type=Path, default=ROOT / "benchmarks/data/answer_golds.txt")
    parser.add_argument("--column", default="answer", help="of a data set's gold answers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/answers.json")
    options = parser.parse_args()
    found = measure(read_golds(options.golds, options.column), options.workers)
    for mistake in found["mistakes"][: SHOWN if options.json.name != "-" else None]:
        print(f"{mistake['is']}: {mistake['answer']!r} for {mistake['gold']!r}, {mistake['score']}")
    refused, accepted = found["false_refusals"], found["false_acceptances"]
    print(f"{found['num_golds']} gold answers")
    print(f"{refused:.2%} of {found['num_right']} right forms refused (at most {MOST_REFUSED:.1%})")
    print(
        f"{accepted:.2%} of {found['num_wrong']} wrong ones accepted (at most {MOST_ACCEPTED:.1%})"
    )
    if options.json.name != "-":
        write_json(options.json, {**found, "mistakes": found["mistakes"][:SHOWN]})
    if refused > MOST_REFUSED or accepted > MOST_ACCEPTED:
        sys.exit("too many")


if __name__ == "__main__":
    main()
