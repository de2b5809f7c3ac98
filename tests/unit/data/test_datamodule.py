"""From problems to prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import ByPassRate, PlainTemplate, PromptDataModule, Shuffled, make_prompts
from steer_lightning.testing import byte_tokenizer
from steer_lightning.types import Problem, Prompt


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


def facts_with(columns: dict[str, Any]) -> dict[str, Any]:
    """Facts of training on one problem with these columns."""
    data = PromptDataModule(Fixed("a"))
    data.trainer = SimpleNamespace(limit_train_batches=1.0)  # type: ignore[assignment]
    problem = Problem(question="a", answer="0", columns=columns)
    data.prompts = {"train": [Prompt(id=0, problem=problem, text="a", token_ids=(1,))]}
    return data.facts


def test_a_checkpoint_of_other_columns_is_refused() -> None:
    """A budget is read by rewards, and the same text may stand for another one."""
    old, new = facts_with({"token_budget": 12}), facts_with({"token_budget": 13})
    assert [key for key in old if old[key] != new[key]] == ["data.train (checksum of the prompts)"]
    assert facts_with({"token_budget": 12}) == old
    assert facts_with({}) != old


def test_values_without_json_do_not_make_processes_differ() -> None:
    one, two = (facts_with({"tests": [object(), {1, 2}], ("a", 1): 3}) for _ in range(2))
    assert one == two
