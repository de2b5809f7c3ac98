"""Words of a command as its class takes them."""

from __future__ import annotations

from typing import Literal

import pytest

from steer_lightning import ConfigError
from steer_lightning.cli.options import read_options


def command(
    vectors: str | list[str] = "v",
    texts: list[str] | None = None,
    scales: list[float] = [1.0],  # noqa: B006  # never changed
    leave_out: list[int] | Literal["each"] | None = None,
    overwrite: bool = False,
) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--vectors a", {"vectors": "a"}),
        ("--vectors a b", {"vectors": ["a", "b"]}),
        ("--vectors=[a,b]", {"vectors": ["a", "b"]}),
        ("--texts 7", {"texts": ["7"]}),
        ('--texts ["7"] --vectors a', {"texts": ["7"], "vectors": "a"}),
        ("--texts 1+1=? {} --overwrite", {"texts": ["1+1=?", "{}"], "overwrite": True}),
        ("--scales 0.5 -1", {"scales": [0.5, -1.0]}),
        ("--scales 2", {"scales": [2.0]}),
        ("--leave_out each", {"leave_out": "each"}),
        ("--leave_out 1 2 --vectors a b", {"leave_out": [1, 2], "vectors": ["a", "b"]}),
    ],
)
def test_lists_need_no_brackets(words: str, expected: dict[str, object]) -> None:
    plain = {"vectors": "v", "texts": None, "scales": [1.0], "leave_out": None, "overwrite": False}
    found = read_options(words.split(), command, prog="p", description="d")
    assert found == {**plain, **expected}


def test_a_list_without_values_is_refused() -> None:
    with pytest.raises(ConfigError):
        read_options(["--texts"], command, prog="p", description="d")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a", "a"),
        ("a b", ["a", "b"]),
        ("a --overwrite b", ["a", "b"]),
        ("--overwrite a --leave_out=each b", ["a", "b"]),
        ("--leave_out each a", "a"),
        ("--vectors a b", ["a", "b"]),
        ("--vectors=a", "a"),
    ],
)
def test_words_without_a_name_are_the_positional_option(words: str, expected: object) -> None:
    found = read_options(words.split(), command, prog="p", description="d", positional="vectors")
    assert found["vectors"] == expected
