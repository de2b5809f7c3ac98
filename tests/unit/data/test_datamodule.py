"""From problems to prompts."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import ByPassRate, PlainTemplate, PromptDataModule, Shuffled, make_prompts
from steer_lightning.testing import byte_tokenizer
from steer_lightning.types import Problem


class Fixed:
    def __init__(self, *questions: str) -> None:
        self.questions = questions

    def load(self) -> list[Problem]:
        return [Problem(question=q, answer="0") for q in self.questions]


def test_over_long_prompts_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    template = PlainTemplate("{question}")
    prompts = make_prompts(Fixed("abc", "abcdef", "ab"), template, byte_tokenizer(), 3)
    assert [(p.id, p.text, len(p.token_ids)) for p in prompts] == [(0, "abc", 3), (2, "ab", 2)]
    assert "dropped 1 of 3 prompts" in caplog.text
    with pytest.raises(ConfigError, match="all 1 prompts of Fixed are longer"):
        make_prompts(Fixed("abcdef"), template, byte_tokenizer(), 3)
    with pytest.raises(ConfigError, match="no problems"):
        make_prompts(Fixed(), template, byte_tokenizer(), 3)


def test_only_an_order_that_learns_is_told_rewards() -> None:
    class Own(Shuffled):
        learns_from_rewards = True

    found = [
        PromptDataModule(Fixed("a"), order=order).learns_from_rewards
        for order in (None, Shuffled(), ByPassRate(), Own())
    ]
    assert found == [False, False, True, True]
