"""The pieces of a text are those of the whole text, whatever the tokenizer does with tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest

from steer_lightning.rollout.completions import decode_texts
from steer_lightning.rollout.text_stream import TextStream
from steer_lightning.testing import EOS, byte_tokenizer
from tests.unit.rollout.test_stop_text import TEXTS, ids_of, wrapped

BYTES = byte_tokenizer()


def pieces(text: str, *stop_strings: str) -> list[str]:
    stream = TextStream(BYTES, {EOS}, stop_strings)
    found = [stream.add(token) for token in BYTES(text)["input_ids"]]
    return [*found, stream.end()]


def test_a_character_is_handed_out_whole() -> None:
    assert pieces("né!") == ["n", "", "é", "!", ""]
    assert pieces("🎉") == ["", "", "", "🎉", ""]


def test_a_text_that_ends_inside_a_character_says_so() -> None:
    stream = TextStream(BYTES, {EOS})
    assert [stream.add(token) for token in BYTES("aé")["input_ids"][:2]] == ["a", ""]
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    assert pieces("abxyc", "xyz") == ["a", "b", "", "", "xyc", ""]
    assert pieces("abxy", "xyz") == ["a", "b", "", "", "xy"]
    assert pieces("aabab", "abab") == ["", "a", "", "", "", ""]


def test_a_stop_string_and_what_follows_are_no_text() -> None:
    stream = TextStream(BYTES, {EOS}, ["yz", "xyz"])
    found = [stream.add(token) for token in BYTES("axyzb")["input_ids"]]
    assert found == ["a", "", "", "", ""]
    assert stream.has_stopped
    assert stream.end() == ""
    assert "".join(pieces("a\n\nb", "\n", "\n\n")) == "a"


def test_tokens_that_end_a_text_are_no_text() -> None:
    stream = TextStream(BYTES, {EOS})
    assert [stream.add(token) for token in (*BYTES("a")["input_ids"], EOS)] == ["a", ""]
    assert not stream.has_stopped


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("metaspace", "▁yes ▁no . ▁stop <0xE2> <0x82> <0xAC> s ▁a"),
        ("byte_fallback", "▁yes ▁no . ▁stop <0xE2> <0x82> <0xAC> s ▁a"),
        ("word_pieces", "do ##n ' t stop . can ##s"),
    ],
)
def test_pieces_are_the_whole_text(kind: str, words: str) -> None:
    tokenizer = wrapped(kind)
    check_pieces(tokenizer, ids_of(tokenizer, words))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_byte_level_tokenizer_are_the_whole_text(text: str) -> None:
    tokenizer = wrapped("byte_level")
    check_pieces(tokenizer, tokenizer(text)["input_ids"])


def check_pieces(tokenizer: Any, tokens: list[int]) -> None:
    stream = TextStream(tokenizer, set())
    found = [*map(stream.add, tokens), stream.end()]
    assert "".join(found) == decode_texts(tokenizer, [tokens], set())[0]
    assert sum(map(bool, found)) > len(tokens) / 2


def test_pieces_of_random_bytes_are_the_whole_text() -> None:
    generator = random.Random(0)
    for _ in range(50):
        tokens = [generator.randrange(3, 259) for _ in range(30)]
        stream = TextStream(BYTES, set())
        found = "".join([*map(stream.add, tokens), stream.end()])
        assert found == decode_texts(BYTES, [tokens], set())[0]
