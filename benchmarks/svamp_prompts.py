r"""What SmolLM2-135M-Instruct writes on training problems of SVAMP, before training, by prompt.

    python benchmarks/svamp_prompts.py --model models/smollm2-135m-instruct --data FOLDER

Each way of asking is tried on the same problems: one greedy answer of each, and two at temperature
1. `docs/results/smollm2.md` has the table. The beginning that all prompts share, such as worked
examples, is read once for all problems, so a trial takes a minute or two on one core.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import write_json
from transformers import DynamicCache

from steer_lightning import load_model
from steer_lightning.data import SVAMP, ChatTemplate, PlainTemplate, Template
from steer_lightning.rewards import MathReward
from steer_lightning.types import Completion, Problem

SAMPLES = 2
ROWS = 1 + SAMPLES
"""Completions of each problem: the first is greedy."""

EXAMPLES = (
    ("Anna has 5 pencils and buys 3 more. How many pencils does she have now?", "5 + 3", "8"),
    ("A shop had 20 cakes and sold 12 of them. How many cakes are left?", "20 - 12", "8"),
    ("There are 4 boxes with 6 balls in each box. How many balls are there in all?", "4 * 6", "24"),
    (
        "Tom shares 15 sweets equally among 3 friends. How many sweets does each friend get?",
        "15 / 3",
        "5",
    ),
    (
        "Mia read 30 pages on Monday and 45 pages on Tuesday. How many more pages did she read on "
        "Tuesday than on Monday?",
        "45 - 30",
        "15",
    ),
    ("A farmer has 7 cows and 12 hens. How many animals does he have?", "7 + 12", "19"),
    (
        "Ben had some stamps. He gave away 11 stamps and has 26 left. How many stamps did he have "
        "at first?",
        "26 + 11",
        "37",
    ),
    (
        "There are 48 chairs in 6 equal rows in a hall with 3 doors. How many chairs are in each "
        "row?",
        "48 / 6",
        "8",
    ),
)
"""Questions with the calculation and its result; none is a problem of SVAMP."""

NUMBERS = [(question, result) for question, _, result in EXAMPLES]
EQUATIONS = [(question, f"{sum_} = {result}") for question, sum_, result in EXAMPLES]
BOXES = [(question, rf"\boxed{{{sum_}}}") for question, sum_, _ in EXAMPLES]
OWN_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's chat template writes if it gets no system message."""
BOX_SYSTEM = r"Answer each question with one calculation in a box, such as \boxed{9 - 2}."


def chat(examples: list[tuple[str, str]], system: str = OWN_SYSTEM, begun: str = "") -> Template:
    """Asks in the chat's form, with worked examples as earlier turns.

    Args:
        examples: Questions with answers.
        system: System message.
        begun: Words with which each answer begins.
    """
    turn = "<|im_start|>{}\n{}<|im_end|>\n".format
    text = turn("system", system)
    for question, answer in examples:
        said = f"{begun} {answer}" if begun else answer
        text += turn("user", question) + turn("assistant", said)
    return PlainTemplate(f"{text}{turn('user', '{question}')}<|im_start|>assistant\n{begun}")


def plain(examples: list[tuple[str, str]]) -> Template:
    """Asks with `Question:` and `Answer:`, without the chat's form."""
    shown = "".join(f"Question: {asked}\nAnswer: {said}\n\n" for asked, said in examples)
    return PlainTemplate(f"{shown}Question: {{question}}\nAnswer:")


@dataclass(frozen=True)
class Trial:
    """A way of asking, and where the answer ends and is looked for."""

    template: Template
    most_tokens: int
    stops: tuple[str, ...] = ()
    answer_in: Any = "last_number"


IN_BOX: dict[str, Any] = {"most_tokens": 16, "stops": ("}",), "answer_in": "boxed"}
TRIALS = {
    "chat-equation": Trial(
        ChatTemplate("Answer with one short equation, such as 5 + 3 = 8, and nothing else."), 24
    ),
    "chat-answer-is": Trial(chat([], begun="The answer is"), 8, ("\n", ".")),
    "plain-4-numbers": Trial(plain(NUMBERS[:4]), 16, ("\n",)),
    "plain-4-equations": Trial(plain(EQUATIONS[:4]), 24, ("\n",)),
    "plain-4-boxes": Trial(plain(BOXES[:4]), **IN_BOX),
    "chat-4-equations": Trial(chat(EQUATIONS[:4]), 24),
    "chat-4-boxes": Trial(chat(BOXES[:4]), **IN_BOX),
    "chat-4-boxes-begun": Trial(chat(BOXES[:4], begun="Answer:"), **IN_BOX),
    "chat-4-boxes-system": Trial(chat(BOXES[:4], BOX_SYSTEM), **IN_BOX),
    "chat-6-boxes": Trial(chat(BOXES[:6]), **IN_BOX),
    "chat-6-boxes-system": Trial(chat(BOXES[:6], BOX_SYSTEM), **IN_BOX),
    "chat-8-boxes-system": Trial(chat(BOXES, BOX_SYSTEM), **IN_BOX),
}


class Answers:
    """Completions of many prompts with a common beginning, which is read once."""

    def __init__(self, model: Any, tokenizer: Any, trial: Trial) -> None:
        self.model, self.tokenizer, self.trial = model, tokenizer, trial
        self.cache = DynamicCache()

    def read(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns logits, mask and last positions of `ROWS` rows for each text."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        common = 0
        while all(len(row) > common + 1 and row[common] == ids[0][common] for row in ids):
            common += 1
        if common:
            beginning = torch.tensor([ids[0][:common]])
            self.model(input_ids=beginning, past_key_values=self.cache, logits_to_keep=1)
            self.cache.batch_repeat_interleave(len(ids))
        ends = [row[common:] for row in ids]
        longest = max(map(len, ends))
        padded = [[self.tokenizer.pad_token_id] * (longest - len(row)) + row for row in ends]
        seen = [[1] * common + [0] * (longest - len(row)) + [1] * len(row) for row in ends]
        mask = torch.tensor(seen)
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, common:]
        logits = self.forward(torch.tensor(padded), mask, places)
        self.cache.batch_repeat_interleave(ROWS)
        rows = (logits, mask, places[:, -1:])
        return rows[0].repeat_interleave(ROWS, 0), *(x.repeat_interleave(ROWS, 0) for x in rows[1:])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Returns the logits (rows, V) of the next token."""
        read = {"attention_mask": mask, "position_ids": places, "past_key_values": self.cache}
        logits: torch.Tensor = self.model(input_ids=ids, logits_to_keep=1, **read).logits[:, -1]
        return logits

    @torch.no_grad()
    def write(self, texts: list[str]) -> list[tuple[str, int, bool]]:
        """Returns text, number of tokens and whether it ended by itself, of each row."""
        logits, mask, places = self.read(texts)
        rows = list(range(len(texts) * ROWS))
        written: list[list[int]] = [[] for _ in rows]
        ended = [False] * len(rows)
        draws = torch.Generator().manual_seed(0)
        for step in range(self.trial.most_tokens):
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=draws)[:, 0]
            is_greedy = torch.tensor([row % ROWS == 0 for row in rows])
            tokens = torch.where(is_greedy, logits.argmax(-1), drawn)
            for place, row in enumerate(rows):
                ended[row] = self.ends(written[row], int(tokens[place]))
            left = [place for place, row in enumerate(rows) if not ended[row]]
            if not left or step == self.trial.most_tokens - 1:
                break
            kept = torch.tensor(left)
            if len(left) < len(rows):
                self.cache.batch_select_indices(kept)
            rows = [rows[place] for place in left]
            mask = torch.cat([mask[kept], torch.ones(len(left), 1, dtype=mask.dtype)], 1)
            places = places[kept] + 1
            logits = self.forward(tokens[kept][:, None], mask, places)
        texts = self.tokenizer.batch_decode(written)
        return [(texts[k], len(written[k]), ended[k]) for k in range(len(written))]

    def ends(self, written: list[int], token: int) -> bool:
        """Adds a token to a text, unless it is an end, and tells whether the text has ended."""
        if token in (self.tokenizer.eos_token_id, self.tokenizer.unk_token_id):
            return True
        written.append(token)
        text = self.tokenizer.decode(written)
        return any(stop in text for stop in self.trial.stops)


def judge(
    trial: Trial, problems: list[Problem], found: list[tuple[str, int, bool]]
) -> dict[str, Any]:
    """Returns accuracy, length and form of greedy answers and of those at temperature 1."""
    reward, result = MathReward(trial.answer_in), {}
    for name, is_greedy in (("greedy", True), ("temperature_1", False)):
        rows = [row for row in range(len(found)) if (row % ROWS == 0) == is_greedy]
        verdicts = []
        for row in rows:
            text, num_tokens, finished = found[row]
            answer = problems[row // ROWS].answer
            completion = Completion(
                text=text, question="", answer=answer, num_tokens=num_tokens, finished=finished
            )
            verdicts.append(reward.compare(completion))
        result[name] = {
            "accuracy": sum(float(verdict or 0) for verdict in verdicts) / len(rows),
            "num_answers": len(rows),
            "tokens": sum(found[row][1] for row in rows) / len(rows),
            "cut_off": sum(not found[row][2] for row in rows) / len(rows),
            "no_answer": sum(getattr(v, "outcome", "") == "no_answer" for v in verdicts),
            "samples": [found[row][0] for row in rows[:8]],
        }
    return result


def main() -> None:
    """Tries each way of asking, and writes a file of results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--data", help="folder with train.jsonl; default: the hub")
    parser.add_argument("--problems", type=int, default=64, help="number of training problems")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_model(args.model, dtype="float32")
    problems = SVAMP("train", path=args.data).load()
    random.Random(0).shuffle(problems)
    problems = problems[: args.problems]
    results: dict[str, Any] = {}
    for name in args.trials:
        trial = TRIALS[name]
        texts = [trial.template.render(problem.question, tokenizer) for problem in problems]
        found = judge(trial, problems, Answers(model, tokenizer, trial).write(texts))
        results[name] = found
        figures = {k: v for k, v in found["temperature_1"].items() if k != "samples"}
        print(f"{name}: greedy {found['greedy']['accuracy']:.1%}, temperature 1 {figures}")
        if args.json:
            write_json(args.json, {"problems": args.problems, "trials": results})


if __name__ == "__main__":
    main()
