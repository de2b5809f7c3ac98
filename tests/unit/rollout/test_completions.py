"""Seeds, draws and ends of completions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steer_lightning import ConfigError
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.completions import BLOCK, StopText, draw, row_uniforms, warp
from steer_lightning.testing import byte_tokenizer, tiny_policy
from tests.unit.rollout.helpers import PROMPTS, steered

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def test_seed_step_prompt_and_sample_each_change_the_stream() -> None:
    base = row_uniforms(1, 2, [7, 8], 2, 5)
    assert base.shape == (4, 5)
    assert len({tuple(row.tolist()) for row in base}) == 4
    assert not torch.equal(row_uniforms(2, 2, [7], 1, 5)[0], base[0])
    assert not torch.equal(row_uniforms(1, 3, [7], 1, 5)[0], base[0])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 5)[1], base[3])
    assert torch.equal(row_uniforms(1, 2, [8], 2, 3)[1], base[3, :3])


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.96, 3), (1 - 1e-12, 3)],
)
def test_draw_inverts_the_cumulative_distribution(uniform: float, token: int) -> None:
    chosen, logprob = draw(LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling())
    assert chosen.tolist() == [token]
    torch.testing.assert_close(logprob, LOGITS[:, token])


def test_draw_never_takes_a_token_that_is_cut_away() -> None:
    for uniform in (0.0, 0.5, 1 - 1e-16):
        chosen, _ = draw(
            LOGITS.clone(), torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=2)
        )
        assert int(chosen) in (0, 1)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_draw_in_blocks_equals_the_plain_inversion(size: int) -> None:
    logits = torch.randn(300, size) * 4
    uniforms = torch.rand(300, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 1e-16])
    logprobs = logits.double().log_softmax(-1)
    ends = logprobs.exp().cumsum(-1)
    expected = torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True)[:, 0]
    expected = expected.clamp(max=size - 1)
    chosen, found = draw(logits.clone(), uniforms, Sampling())
    # sums in float32 may move a border by a millionth
    near = (ends.gather(-1, expected[:, None])[:, 0] - uniforms).abs() < 1e-5
    before = ends.gather(-1, (expected[:, None] - 1).clamp(min=0))[:, 0]
    near |= (before - uniforms).abs() < 1e-5
    assert near.sum() < 30
    assert torch.equal(chosen[~near], expected[~near])
    picked = logprobs.gather(-1, chosen[:, None])[:, 0].float()
    torch.testing.assert_close(found, picked, atol=1e-5, rtol=1e-5)


def test_min_p_keeps_what_is_likely_enough() -> None:
    kept = warp(LOGITS, Sampling(min_p=0.5)).isfinite()  # 0.3 is at least half of 0.5
    assert kept.tolist() == [[True, True, False, False]]
    assert warp(LOGITS, Sampling(min_p=1.0)).isfinite().sum() == 1


def test_warp_by_hand() -> None:
    def warped(sampling: Sampling) -> torch.Tensor:
        return warp(LOGITS, sampling).softmax(-1)[0]

    assert warped(Sampling(top_k=2)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.8)).tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert warped(Sampling(top_p=0.81))[:3].sum().item() == pytest.approx(1)
    assert warped(Sampling(top_p=0.01)).tolist() == pytest.approx([1, 0, 0, 0])
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert warped(Sampling(temperature=0.5)).tolist() == pytest.approx(
        (squared / squared.sum()).tolist()
    )


def test_frequencies_follow_the_distribution() -> None:
    uniforms = row_uniforms(0, 0, range(500), 4, 1)[:, 0]
    chosen, _ = draw(LOGITS.repeat(2000, 1), uniforms, Sampling())
    shares = torch.bincount(chosen, minlength=4) / 2000
    torch.testing.assert_close(shares, LOGITS[0].exp(), atol=0.03, rtol=0)


def test_entropy_of_the_uniform_distribution() -> None:
    _, logprob = draw(torch.zeros(1, 8), torch.tensor([0.3], dtype=torch.float64), Sampling())
    assert -logprob.item() == pytest.approx(math.log(8))


@pytest.mark.parametrize("engine", [GenerateEngine(), DecodeEngine()], ids=["generate", "decode"])
def test_a_stop_string_ends_a_row_and_is_part_of_it(engine) -> None:
    policy = steered("llama")
    engine.setup(policy)
    settings = {"group_size": 4, "max_new_tokens": 30}
    plain = engine.generate(PROMPTS, Sampling(**settings), seed=0, step=0)
    text = policy.tokenizer.decode(plain.completion_ids[0, 3:5])
    stopped = engine.generate(PROMPTS, Sampling(**settings, stop_strings=[text]), seed=0, step=0)
    tokens = plain.completion_ids[0].tolist()
    expected = next(k for k in range(1, 31) if text in policy.tokenizer.decode(tokens[:k]))
    assert int(stopped.num_tokens[0]) == expected
    assert bool(stopped.finished[0])
    assert stopped.texts[0].endswith(text)
    for n in range(4 * len(PROMPTS)):
        body = stopped.completion_ids[n, : int(stopped.num_tokens[n]) - 1]
        assert text not in policy.tokenizer.decode(body)


@pytest.mark.parametrize("size", [338, 512, 1100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_logits_that_are_not_finite_a_token_is_drawn_that_exists(
    size: int, temperature: float
) -> None:
    for value in ("nan", "inf", "-inf"):
        logits = torch.zeros(3, size)
        logits[1, 7], logits[2] = float(value), float(value)
        tokens, logprobs = draw(
            logits, torch.full((3,), 0.999).double(), Sampling(temperature=temperature)
        )
        assert all(0 <= token < size for token in tokens.tolist())
        # a single -inf is a token that is never drawn
        assert logprobs.isnan().tolist() == [False, value != "-inf", True]


@pytest.mark.parametrize("make", [DecodeEngine, GenerateEngine])
def test_logits_that_are_not_finite_end_the_rollout_in_words(make) -> None:
    policy, engine, scored = tiny_policy(), make(), []
    engine.setup(policy)
    sampling = Sampling(group_size=2, max_new_tokens=6)
    add = lambda row, completion: scored.append(row)  # noqa: E731
    engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=add)
    assert len(scored) == 2 * len(PROMPTS)
    scored.clear()
    policy.model.get_output_embeddings().weight.data[3] = float("nan")
    told = r"base is in torch.float32, are not finite: .* prompt \d and 0 tokens.*model.dtype"
    with pytest.raises(FloatingPointError, match=told):
        engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=add)
    assert not scored, "what comes of such logits is no answer"
    with pytest.raises(ConfigError, match="logits are not finite: damaged weights, or another"):
        make().setup(policy)


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
