"""Stop strings are those of the whole text, whatever the tokenizer does with tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steer_lightning.rollout.stop_text import StopText
from steer_lightning.testing import byte_tokenizer


def test_a_stop_string_may_lie_across_tokens() -> None:
    tokenizer = byte_tokenizer()
    stop = StopText(tokenizer, ["né", "xyz"])
    ids = tokenizer("anné xy")["input_ids"]
    assert [stop(ids[:k]) for k in range(1, len(ids) + 1)] == [False] * 4 + [True] + [False] * 3


TEXTS = [
    "Question: Tom has 3 apples. How many are that?\n\nAnswer: 3, and no more!",
    "I don't know, said the café's owner ; it isn't mine .  Two  spaces, naïve 🎉🎉 日本語\n\n",
]


def bytes_as_tokens(first: int) -> dict[str, int]:
    return {f"<0x{byte:02X}>": first + byte for byte in range(256)}


def sentencepiece(decoder: Any) -> Tokenizer:
    """A vocabulary as Llama 2's: pieces with their spaces, and bytes for what is in none."""
    pieces = ["<unk>", "▁", "▁▁", "▁yes", "yes", "▁no", "a", "n", "▁a", ".", "▁.", "s", "▁stop"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    vocabulary |= bytes_as_tokens(len(pieces))
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoder
    return tokenizer


def metaspace() -> Tokenizer:
    parts = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    return sentencepiece(decoders.Sequence(parts))


def byte_fallback() -> Tokenizer:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return sentencepiece(decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)]))


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_pieces() -> Tokenizer:
    words = ["[UNK]", "do", "can", "'", "t", "n", "##t", "##n", "##s", "s", ".", ",", "stop"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "metaspace": metaspace,
    "byte_fallback": byte_fallback,
    "byte_level": byte_level,
    "word_pieces": word_pieces,
}


def wrapped(kind: str, cleans_up: bool = False) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](),
        clean_up_tokenization_spaces=cleans_up,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=cleans_up,
    )


def first_stop(tokenizer: Any, strings: Sequence[str], ids: list[int]) -> int | None:
    stop = StopText(tokenizer, strings)
    return next((k for k in range(1, len(ids) + 1) if stop(ids[:k])), None)


def expected_stop(tokenizer: Any, strings: Sequence[str], ids: list[int]) -> int | None:
    """By the whole text at each token."""
    for k in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:k], clean_up_tokenization_spaces=False)
        if any(string in text for string in strings):
            return k
    return None


def ids_of(tokenizer: Any, tokens: str) -> list[int]:
    return [int(number) for number in tokenizer.convert_tokens_to_ids(tokens.split())]


@pytest.mark.parametrize("kind", ["metaspace", "byte_fallback"])
@pytest.mark.parametrize(
    ("tokens", "string", "expected"),
    [
        ("a ▁yes", " yes", 2),  # the token begins with the space
        ("a ▁ yes a", " yes", 3),  # a token of its own is the space
        ("n n ▁ a", " a", 4),  # a token a byte, of which the first is the space
        ("n n ▁ n ▁ n a", " n ", 5),
        ("n n ▁ <0x0A>", " \n", 4),
        ("a ▁▁ yes a", " yes", 3),
        ("a ▁▁ yes a", "  yes", 3),
        ("▁yes a ▁yes", " yes", 3),  # the text begins with "yes", not with a space
        ("▁stop a", "top", 1),  # in the middle of a token
        ("▁no . ▁stop a s", "o. sto", 3),  # across several, from the middle of one to another's
        ("<0xF0> <0x9F> <0x8E> <0x89> <0x0A> <0x0A> a", "\n\n", 6),  # behind a character of 4 bytes
        ("a <0xC3> <0xA9> <0x0A> a", "\n", 4),
        ("a <0xC3> <0xA9> a", "é", 3),
        ("a <0xC3> ▁yes", " yes", 3),  # half a character
        ("a <0xA9> <0x0A> a", "\n", None),  # the text shows no line end, but two broken bytes
    ],
)
def test_stops_by_hand(kind: str, tokens: str, string: str, expected: int | None) -> None:
    tokenizer = wrapped(kind)
    ids = ids_of(tokenizer, tokens)
    assert expected_stop(tokenizer, [string], ids) == expected
    assert first_stop(tokenizer, [string], ids) == expected


def test_a_clean_up_does_not_hide_spaces_from_stop_strings() -> None:
    tokenizer = wrapped("byte_fallback", cleans_up=True)
    ids = ids_of(tokenizer, "a ▁ . ▁ . ▁ . a")
    assert tokenizer.decode(ids) == "a...a"
    assert first_stop(tokenizer, [" ."], ids) == 3, "as the rewards read it"
    assert first_stop(tokenizer, ["a..."], ids) is None


def test_a_mark_that_a_decoder_drops_within_a_text_is_no_text() -> None:
    tokenizer = wrapped("word_pieces")
    ids = ids_of(tokenizer, "can ##t ##s stop")
    assert tokenizer.decode(ids) == "cants stop"
    assert first_stop(tokenizer, ["##"], ids) is None
    assert first_stop(tokenizer, ["ts s"], ids) == 4


@pytest.mark.parametrize("cleans_up", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_stops_are_those_of_the_whole_text(kind: str, cleans_up: bool) -> None:
    """Random tokens, and stop strings that are cut out of their text."""
    tokenizer = wrapped(kind, cleans_up)
    chance = random.Random(0)
    whole = {"é", "日", "🎉", "\n"}
    characters = [[f"<0x{byte:02X}>" for byte in character.encode()] for character in whole]
    num_found = 0
    for _ in range(400):
        ids: list[int] = []
        for _ in range(chance.randrange(1, 25)):
            if kind in ("metaspace", "byte_fallback"):
                pieces = chance.choice([*characters, ["▁yes"], ["▁"], ["."], ["▁."], ["▁▁"], ["a"]])
                ids += tokenizer.convert_tokens_to_ids(pieces)
            elif kind == "byte_level" and chance.random() < 0.5:
                ids += tokenizer(chance.choice(TEXTS)[chance.randrange(60) :][:5])["input_ids"]
            else:
                ids.append(chance.randrange(len(tokenizer)))
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        start = chance.randrange(len(text) + 1)
        string = text[start : start + chance.randrange(1, 6)]
        if not string or "\N{REPLACEMENT CHARACTER}" in string:
            continue
        strings = [string, "no such"]
        expected = expected_stop(tokenizer, strings, ids)
        assert expected is not None
        num_found += 1
        assert first_stop(tokenizer, strings, ids) == expected, (string, text)
    assert num_found > 100


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_decoded_at_a_token_does_not_grow_with_the_text(kind: str) -> None:
    tokenizer = wrapped(kind)
    decode, decoded = tokenizer.decode, []
    chance = random.Random(1)
    ids = [chance.randrange(len(tokenizer)) for _ in range(500)]

    class Counting:
        def decode(self, tokens: list[int], **options: Any) -> str:
            decoded.append(len(tokens))
            return str(decode(tokens, **options))

    stop = StopText(Counting(), ["not there", "12345"])
    assert not any(stop(ids[:k]) for k in range(1, len(ids) + 1))
    assert max(decoded) <= len("not there") + 4
    assert len(decoded) <= 4 * len(ids)
