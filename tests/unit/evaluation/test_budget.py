"""Budget forcing: what is forced, where, and that what was drawn stays as it was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.evaluation.budget import (
    Budget,
    answer_within,
    check_budgets,
    most_tokens_within,
)
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling, completions_of
from steer_lightning.steering import LoRA, SteeringVectors
from steer_lightning.testing import byte_tokenizer, make_prompts, tiny_policy
from steer_lightning.types import Prompt, Rollouts

EOS = byte_tokenizer().eos_token_id


def ids(text: str) -> list[int]:
    return list(byte_tokenizer().encode(text, add_special_tokens=False))


@dataclass
class Scripted:
    """Says the next line of a script for each row, cut off where a call asks for fewer tokens."""

    lines: dict[str, list[str]]
    """Lines of each question, one for each call; `.` stands for the EOS token."""
    asked: list[tuple[list[str], Sampling, int]] = field(default_factory=list)
    """Texts, settings and step of each call."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, step: int, **_: Any
    ) -> Rollouts:
        texts = [byte_tokenizer().decode(prompt.token_ids[1:]) for prompt in prompts]
        self.asked.append((texts, sampling, step))
        rows, ends = [], set(sampling.eos_token_ids) | {EOS}
        for prompt in prompts:
            for _row in range(sampling.group_size):
                line = self.lines[prompt.problem.question].pop(0)
                drawn = [EOS if letter == "." else ids(letter)[0] for letter in line]
                stops = [n for n, token in enumerate(drawn) if token in ends]
                rows.append(drawn[: min([*(n + 1 for n in stops), sampling.max_new_tokens])])
        width = max(map(len, rows))
        return Rollouts(
            prompts=tuple(prompts),
            group_size=sampling.group_size,
            completion_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            completion_mask=torch.tensor(
                [[n < len(row) for n in range(width)] for row in rows], dtype=torch.bool
            ),
            logprobs=torch.zeros(len(rows), width),
            finished=torch.tensor([row[-1] in ends for row in rows]),
            texts=("",) * len(rows),
        )


def told(
    lines: dict[str, list[str]], budget: Budget, most: int = 20, size: int = 1
) -> tuple[list[tuple[str, int, bool]], Scripted]:
    engine = Scripted(lines)
    sampling = Sampling(group_size=size, max_new_tokens=most)
    prompts = make_prompts(list(lines))
    found = answer_within(tiny_policy(), engine, prompts, sampling, budget, seed=3)  # type: ignore[arg-type]
    return [(x.text, x.num_tokens, x.finished) for x in found], engine


def test_wait_stands_in_place_of_the_end() -> None:
    """`q` ends after 2 letters: 2 + `Hm` + 1 + `Hm` + 2 letters and EOS are 10 tokens."""
    found, engine = told({"q": ["ab.", "c.", "de."]}, Budget(num_waits=2, wait="Hm"))
    assert found == [("abHmcHmde", 10, True)]
    assert [texts for texts, _, _ in engine.asked] == [["q"], ["qabHm"], ["qabHmcHm"]]
    assert [step - EVALUATION_STEP for _, _, step in engine.asked] == [0, -1, -2], "other numbers"
    assert [sampling.max_new_tokens for _, sampling, _ in engine.asked] == [20, 16, 13]


def test_nothing_waits_that_was_cut_off_or_has_no_room() -> None:
    found, engine = told({"q": ["abcdefgh"], "r": ["abcd."]}, Budget(num_waits=1), most=8)
    assert found == [("abcdefgh", 8, False), ("abcd", 5, True)], "4 + Wait fill all 8 tokens"
    assert len(engine.asked) == 1


def test_an_answer_is_forced_where_the_budget_is_used_up() -> None:
    budget = Budget(max_thinking_tokens=3, answer_prefix=" so ", max_answer_tokens=2)
    found, engine = told({"q": ["abcdef", "7."], "r": ["ab."], "s": ["xyz.", "890"]}, budget)
    assert found == [("abc so 7", 9, True), ("ab", 3, True), ("xyz so 89", 9, False)]
    assert engine.asked[0][1].max_new_tokens == 3
    texts, sampling, _ = engine.asked[1]
    assert (texts, sampling.max_new_tokens, sampling.group_size) == (
        ["qabc so ", "sxyz so "],
        2,
        1,
    )


def test_waits_and_a_limit_together() -> None:
    """`q` has 2 + 2 + 6 tokens after its wait, of which the limit of 7 keeps 3."""
    budget = Budget(num_waits=1, wait="Hm", max_thinking_tokens=7, answer_prefix="=")
    found, engine = told({"q": ["ab.", "cdefgh", "1."], "r": [".", "uvw."]}, budget)
    assert found == [("abHmcde=1", 10, True), ("Hmuvw", 6, True)]
    assert engine.asked[1][1].max_new_tokens == 5, "the room of the row with most of it"


def test_a_row_beside_one_with_more_room_is_cut_where_its_own_room_ends() -> None:
    """It ends by itself, but beyond its limit of 6 tokens, so it has not ended."""
    budget = Budget(num_waits=1, wait="H", max_thinking_tokens=6, answer_prefix="=")
    found, _ = told({"q": ["abc.", "de.", "1."], "r": [".", "u."]}, budget)
    assert found == [("abcHde=1", 9, True), ("Hu", 3, True)]
    found, _ = told({"q": ["abc.", "d.", "1."], "r": [".", "u."]}, budget)
    assert found[0] == ("abcHd", 6, True), "EOS is its sixth token"


def test_thinking_that_ends_with_a_token_of_its_own() -> None:
    budget = Budget(
        num_waits=1, wait="Hm", max_thinking_tokens=8, answer_prefix=":", thinking_end="/"
    )
    lines = {"q": ["ab/", "c/", "7."], "r": ["abcdefgh", "8."], "s": ["x."]}
    found, engine = told(lines, budget)
    assert found == [("abHmc/7", 8, True), ("abcdefgh/:8", 12, True), ("x", 2, True)]
    (slash,) = ids("/")
    assert [slash in sampling.eos_token_ids for _, sampling, _ in engine.asked] == [
        True,
        True,
        False,
    ]


def test_samples_of_a_problem_have_numbers_of_their_own() -> None:
    engine = Scripted({"q": ["a.", "b.", "c.", "d."], "r": ["a.", "b.", "c.", "d."]})
    seen: list[list[int]] = []
    plain = engine.generate

    def generate(prompts: Sequence[Prompt], *args: Any, **kwargs: Any) -> Rollouts:
        seen.append([prompt.id for prompt in prompts])
        return plain(prompts, *args, **kwargs)

    engine.generate = generate  # type: ignore[method-assign]
    sampling = Sampling(group_size=2, max_new_tokens=20)
    budget = Budget(num_waits=1)
    answer_within(tiny_policy(), engine, make_prompts(["q", "r"]), sampling, budget, seed=0)  # type: ignore[arg-type]
    assert seen == [[0, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("engine", [DecodeEngine, GenerateEngine])
def test_tokens_are_those_that_were_drawn(engine: Callable[[], Any]) -> None:
    """Bytes that are no text survive: ids are joined, and each part is what the model goes on with.

    At temperature 0, a completion that is cut and continued with what it would have said anyway is
    the completion.
    """
    policy, answers = tiny_policy(), engine()
    answers.setup(policy)
    prompts = make_prompts(["ab", "c"])
    greedy = Sampling(group_size=1, temperature=0, max_new_tokens=12)
    whole = answers.generate(prompts, greedy, seed=0, step=0, on_completion=lambda *_: None)
    assert whole.completion_ids.shape[1] == 12, "no row ends early"
    token = int(whole.completion_ids[0, 4])
    seen: list[tuple[int, ...]] = []
    plain = answers.generate

    def generate(prompts: Sequence[Prompt], *args: Any, **kwargs: Any) -> Rollouts:
        seen.extend(prompt.token_ids for prompt in prompts)
        found: Rollouts = plain(prompts, *args, **kwargs)
        return found

    answers.generate = generate
    prefix = byte_tokenizer().decode([token])
    budget = Budget(max_thinking_tokens=4, answer_prefix=prefix, max_answer_tokens=7)
    found = answer_within(policy, answers, prompts, greedy, budget, seed=0)
    forced = ids(prefix)
    drawn = whole.completion_ids[:, :4].tolist()
    assert seen[2:] == [
        (*prompt.token_ids, *row, *forced) for prompt, row in zip(prompts, drawn, strict=True)
    ]
    if forced == [token]:
        assert found[0].text == completions_of(whole)[0].text
    assert [x.num_tokens for x in found] == [4 + len(forced) + 7] * 2


def test_within_a_wide_budget_completions_are_those_without() -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=3, max_new_tokens=9, eos_token_ids=list(range(3, 90)))
    prompts = make_prompts(["ab", "c"])
    free = engine.generate(prompts, sampling, seed=5, step=EVALUATION_STEP)
    budget = Budget(max_thinking_tokens=9)
    found = answer_within(policy, engine, prompts, sampling, budget, seed=5)
    ended = [n for n, done in enumerate(free.finished.tolist()) if done]
    assert len(ended) > 2
    assert [found[n] for n in ended] == [completions_of(free)[n] for n in ended]


def test_lengths_that_are_checked_before_the_base_loads() -> None:
    tokenizer, sampling = byte_tokenizer(), Sampling(max_new_tokens=50)

    def most(**settings: Any) -> int:
        return most_tokens_within(Budget(**settings), sampling, tokenizer)

    assert most(num_waits=2) == 50
    assert most(max_thinking_tokens=8, answer_prefix=" so ", max_answer_tokens=3) == 15
    end = {"thinking_end": "/", "answer_prefix": ":", "max_answer_tokens": 3}
    assert most(num_waits=1, **end) == 55


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "budgets.num_waits = 0: forces nothing, since max_thinking_tokens is null"),
        ({"num_waits": -1}, "budgets.num_waits = -1"),
        ({"num_waits": 1, "wait": ""}, "must not be empty"),
        ({"max_thinking_tokens": 0}, "must be at least 1, or null"),
        ({"num_waits": 1, "max_answer_tokens": 0}, "must be at least 1"),
        ({"num_waits": 1, "thinking_end": ""}, "must be null or the text of a token"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(**settings)


def test_settings_that_contradict_each_other() -> None:
    free, waits = Sampling(), {"w": Budget(num_waits=1)}
    whole = SteeringVectors().shaped(2, 4)

    def check(budgets: dict[str, Budget], sampling: Sampling = free, steering: Any = whole) -> None:
        check_budgets(budgets, {"mine": steering}, {"base_sampling": sampling}, byte_tokenizer())

    part = SteeringVectors(tokens="completion").shaped(2, 4)
    check({}, steering=part)
    check(waits)
    check(waits, steering=LoRA())
    with pytest.raises(ConfigError, match=r"budgets = \['w'\].*vectors mine.*tokens 'completion'"):
        check(waits, steering=part)
    stops = Sampling(stop_strings=["}"])
    check({"m": Budget(max_thinking_tokens=3)}, stops)
    with pytest.raises(ConfigError, match=r"budgets.w.num_waits = 1.*base_sampling.stop_strings"):
        check(waits, stops)
    with pytest.raises(ConfigError, match=r"has 4 tokens, and no room within base_sampling.max"):
        check(waits, Sampling(max_new_tokens=4))
    with pytest.raises(ConfigError, match=r"no room within budgets.w.max_thinking_tokens = 3"):
        check({"w": Budget(num_waits=1, max_thinking_tokens=3)})
    with pytest.raises(ConfigError, match=r"'//'.*is 2 tokens of the base's tokenizer"):
        check({"w": Budget(num_waits=1, thinking_end="//")})
