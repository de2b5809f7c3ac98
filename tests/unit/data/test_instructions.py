"""Instructions that are added to the problems of another source."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Arithmetic, Instructions
from steer_lightning.data.instructions import GROUPS, KINDS, VALUES
from steer_lightning.rewards.instructions import CHECKS, SCRIPTS, followed
from steer_lightning.types import Problem


class Two:
    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def load(self) -> list[Problem]:
        return [Problem(question=q, answer="1", columns=self.columns) for q in ("a", "b")]


def test_every_kind_has_values_and_a_check() -> None:
    assert list(KINDS) == list(VALUES) == list(CHECKS)
    assert set(VALUES["language"]) <= set(SCRIPTS)
    for kind, values in VALUES.items():
        for value in values:
            columns = {"instructions": [{"kind": kind, "value": value}]}
            assert followed("x", columns) in (0.0, 1.0)


def test_a_problem_and_its_instructions() -> None:
    source = Instructions(
        Two(level=3), kinds=["max_words", "no_commas"], values={"max_words": [7]}, least=2, most=2
    )
    one, _ = source.load()
    assert one.answer == "1"
    assert one.columns["level"] == 3
    added = one.columns["instructions"]
    assert isinstance(added, list)
    texts = {"max_words": "Use at most 7 words.", "no_commas": "Do not use commas."}
    assert {x["kind"]: x["value"] for x in added} == {"max_words": 7, "no_commas": None}
    assert one.question == "a\n\n" + " ".join(texts[x["kind"]] for x in added)


def test_the_text_may_have_them_first_and_questions_may_hold_anything() -> None:
    class Odd:
        def load(self) -> list[Problem]:
            return [Problem(question="{instructions}{value}", answer="1")]

    source = Instructions(Odd(), kinds=["no_commas"], most=1, text="{instructions} {question}!")
    assert source.load()[0].question == "Do not use commas. {instructions}{value}!"


def test_one_to_three_of_different_groups_by_seed_and_place() -> None:
    def drawn(seed: int) -> list[Any]:
        source = Instructions(Arithmetic(num_problems=300), seed=seed)
        return [problem.columns["instructions"] for problem in source.load()]

    found = drawn(0)
    assert found == drawn(0)
    assert found != drawn(1)
    counts = Counter(len(x) for x in found)
    assert set(counts) == {1, 2, 3}
    assert all(80 < count < 120 for count in counts.values()), "each number is equally likely"
    for added in found:
        groups = [KINDS[one["kind"]][0] for one in added]
        assert len(set(groups)) == len(groups)
    assert {one["kind"] for added in found for one in added} == set(KINDS)
    assert set(GROUPS) == {group for group, _ in KINDS.values()}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kinds": ["rhyme"]}, r"Instructions\.kinds = .*'rhyme' is not a kind"),
        ({"values": {"rhyme": [1]}}, r"Instructions\.values = .*'rhyme' is not a kind"),
        ({"values": {"max_words": []}}, r"Instructions\.values = \[\]: must have a list"),
        ({"least": 0}, r"Instructions\.least = 0: must be at least 1"),
        ({"least": 3, "most": 2}, r"at most Instructions\.most = 2"),
        ({"kinds": ["keyword", "without_word"]}, r"Instructions\.most = 3: must be at most 1"),
        ({"text": "{question}"}, r"Instructions\.text = .*once each"),
        ({"text": "{question}{question}{instructions}"}, "once each"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Instructions(Two(), **settings)


def test_a_column_of_that_name_is_not_overwritten() -> None:
    with pytest.raises(ConfigError, match="have a column 'instructions' already"):
        Instructions(Two(instructions="x")).load()
