"""Checks of verifiable instructions, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.rewards import InstructionReward, followed
from steer_lightning.types import Completion


def check(kind: str, value: Any, text: str) -> bool:
    return bool(followed(text, {"instructions": [{"kind": kind, "value": value}]}))


@pytest.mark.parametrize(
    ("kind", "value", "right", "wrong"),
    [
        ("max_words", 3, "one two\nthree", "one two three 4"),
        ("min_words", 3, "one two\nthree", " one  two "),
        ("keyword", "check", "I Check.", "checked"),
        ("keyword", "c++", "in C++!", "in c"),
        ("without_word", "so", "also, soon", "And so, 3"),
        ("bullets", 2, "- a\n- b\n  - c\n-d", "- a\nb - c"),
        ("no_commas", None, "a; b", "1,000"),
        ("starts_with", "Let me", "\n Let me think", "Now let me"),
        ("ends_with", "done.", "it is done.\n", "done. Yes"),
        ("language", "Chinese", r"答案是 $x+y$ \boxed{85}", "The answer 答案"),
        ("language", "Hindi", "उत्तर है 85", "uttar 85"),
        ("language", "Russian", "ответ: x=85", "otvet"),
        ("language", "English", "é is a letter", "ответ"),
    ],
)
def test_each_kind(kind: str, value: Any, right: str, wrong: str) -> None:
    assert check(kind, value, right)
    assert not check(kind, value, wrong)


def test_a_text_without_letters_is_in_no_language() -> None:
    assert not check("language", "English", "85")


def completion(text: str, *instructions: tuple[str, Any]) -> Completion:
    columns = {"instructions": [{"kind": kind, "value": value} for kind, value in instructions]}
    return Completion(
        text=text, question="q", answer="1", num_tokens=1, finished=True, columns=columns
    )


def test_hard_and_soft() -> None:
    three = (("max_words", 2), ("no_commas", None), ("keyword", "so"))
    given = [completion("so it", *three), completion("so it is, yes", *three), completion("x")]
    assert InstructionReward()(given) == [1.0, 0.0, None]
    assert InstructionReward(soft=True)(given) == [1.0, pytest.approx(1 / 3), None]


def test_what_can_not_be_checked_is_told() -> None:
    with pytest.raises(ConfigError, match=r"Instructions\.kinds = 'rhyme': has no check"):
        followed("x", {"instructions": [{"kind": "rhyme", "value": 1}]})
    with pytest.raises(ConfigError, match=r"language = 'Latin': must be one of Chinese"):
        check("language", "Latin", "x")
