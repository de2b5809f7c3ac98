"""Texts and bytes of single tokens, whatever the tokenizer does with them."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning.endpoint.token_texts import ALPHABET, TokenTexts
from steer_lightning.testing import BOS, EOS, byte_tokenizer
from tests.unit.rollout.test_stop_text import ids_of, wrapped

EMOJI = "🎉"
BYTES = "<0xF0> <0x9F> <0x8E> <0x89>"


@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "byte_fallback"])
def test_the_parts_of_a_character_have_their_own_bytes(kind: str) -> None:
    tokenizer = wrapped(kind)
    if kind == "byte_level":  # its vocabulary has parts of the emoji, but other bytes alone
        tokens, text = tokenizer(f" naïve {EMOJI} 日 𝄞")["input_ids"], f" naïve {EMOJI} 日 𝄞"
    else:
        tokens, text = ids_of(tokenizer, f"yes {BYTES} s"), f"yes{EMOJI}s"
    texts = TokenTexts(tokenizer, ())
    assert b"".join(map(texts.bytes_of, tokens)) == text.encode()
    assert any("\N{REPLACEMENT CHARACTER}" in texts.of(token) for token in tokens)


def test_all_bytes_have_a_character() -> None:
    assert sorted(ALPHABET.values()) == list(range(256))
    assert [ALPHABET[character] for character in "!Ġ"] == [0x21, 0x20]
    tokenizer = byte_tokenizer()
    texts = TokenTexts(tokenizer, {EOS})
    every = {texts.bytes_of(token) for token in range(3, 259)}
    assert every == {bytes([byte]) for byte in range(256)}


def test_tokens_that_are_no_text_have_their_names() -> None:
    texts = TokenTexts(byte_tokenizer(), {BOS, EOS})
    assert (texts.of(EOS), texts.bytes_of(EOS)) == ("<eos>", b"<eos>")
    hello = byte_tokenizer()("hello")["input_ids"]
    assert texts.whole([BOS, *hello, EOS]) == "hello"


def test_a_piece_of_words_has_the_bytes_of_its_text() -> None:
    tokenizer = wrapped("word_pieces")
    (token,) = ids_of(tokenizer, "stop")
    assert TokenTexts(tokenizer, ()).bytes_of(token) == b"stop"


def offsets(tokenizer: Any, tokens: list[int], first: int = 0) -> list[int]:
    return TokenTexts(tokenizer, {BOS, EOS}).offsets(tokens, first)


def test_offsets_count_characters_of_the_whole_text() -> None:
    tokenizer = byte_tokenizer()
    tokens = [BOS, *tokenizer(f"a{EMOJI}b")["input_ids"], EOS]
    assert offsets(tokenizer, tokens) == [0, 0, 1, 1, 1, 1, 2, 3]
    assert offsets(tokenizer, tokens, 7)[-1] == 10
    tokenizer = wrapped("metaspace")
    assert offsets(tokenizer, ids_of(tokenizer, "▁yes ▁no ▁stop")) == [0, 3, 6], "yes no stop"
