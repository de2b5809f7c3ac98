"""The text that rewards read: form in special tokens stays, what ends a text goes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steer_lightning.data.completion_text import ids_without_text, tell_of_endings, turn_end_ids
from steer_lightning.rewards import FormatReward, MathReward
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.completions import decode_texts
from steer_lightning.testing import BOS, EOS, PAD, byte_tokenizer
from steer_lightning.types import Completion

TAGS = ["<think>", "</think>", "[ANSWER]", "[/ANSWER]", "<|im_end|>", "<|im_start|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITTEN = "<think>add: é 漢\n</think>[ANSWER]\\boxed{5}[/ANSWER]"


def tagged(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": TAGS})
    tokenizer.chat_template = chat_template
    return tokenizer


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def texts_of(tokenizer: Any, ending_ids: list[int], rows: list[list[int]]) -> list[str]:
    return decode_texts(tokenizer, rows, ids_without_text(tokenizer, ending_ids))


def completion(text: str) -> Completion:
    return Completion(text=text, question="2+3", answer="5", num_tokens=9, finished=True)


@pytest.mark.parametrize("end", ["", "<eos>", "<|im_end|>", "<|im_end|><eos>", "<eos><pad><pad>"])
def test_tags_that_are_special_tokens_stay_and_ends_go(end: str) -> None:
    tokenizer = tagged()
    ids = ids_of(tokenizer, WRITTEN + end)
    assert len(ids) < 60, "each tag is one token"
    assert texts_of(tokenizer, [EOS], [ids]) == [WRITTEN]
    assert "<think>" not in tokenizer.decode(ids, skip_special_tokens=True)


def test_a_reward_for_a_form_in_special_tokens_can_be_met() -> None:
    tokenizer, form = tagged(), FormatReward(r"^<think>.*</think>\[ANSWER\].*\[/ANSWER\]$")
    ids = ids_of(tokenizer, WRITTEN + "<eos>")
    (text,) = texts_of(tokenizer, [EOS], [ids])
    assert form([completion(text)]) == [1.0]
    assert MathReward()([completion(text)]) == [1.0]
    (text,) = texts_of(tokenizer, [EOS], [ids_of(tokenizer, "add: 5<eos>")])
    assert form([completion(text)]) == [0.0]


def test_a_tag_that_ends_completions_by_a_setting_is_part_of_the_text() -> None:
    tokenizer = tagged()
    (end,) = ids_of(tokenizer, "[/ANSWER]")
    assert texts_of(tokenizer, [EOS], [[*ids_of(tokenizer, "[ANSWER]5"), end]]) == [
        "[ANSWER]5[/ANSWER]"
    ]


def test_what_a_model_writes_without_special_tokens_is_what_the_tokenizer_decodes() -> None:
    tokenizer = tagged()
    rows = [ids_of(tokenizer, text) for text in ("", "x != y , f ( a )", " é\n", WRITTEN[7:20])]
    found = texts_of(tokenizer, [EOS], rows)
    assert found == tokenizer.batch_decode(rows, skip_special_tokens=True)
    half = ids_of(tokenizer, "é")[:1]  # half of a letter
    assert texts_of(tokenizer, [EOS], [half]) == ["\ufffd"]


def test_spaces_are_as_the_model_wrote_them() -> None:
    words = {"<unk>": 0, "x": 1, "!": 2, "=": 3, "y": 4, ",": 5, "<tag>": 6}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    inner.add_special_tokens([AddedToken("<tag>", special=True)])
    inner.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", clean_up_tokenization_spaces=True
    )
    assert tokenizer.decode([1, 5, 4]) == "x, y", "tidied up by itself"
    assert texts_of(tokenizer, [], [[1, 5, 4], [6, 1]]) == ["x , y", "<tag> x"]


def test_a_tokenizer_as_of_llama_with_byte_fallback_and_spaces_in_front_of_words() -> None:
    letters = [f"<0x{k:02X}>" for k in range(256)]
    known = ["<unk>", "<s>", "</s>", *letters, "▁", "a", "▁a", "<think>", "</think>"]
    inner = Tokenizer(
        models.BPE(
            {token: k for k, token in enumerate(known)}, [("▁", "a")],
            unk_token="<unk>", byte_fallback=True,
        )
    )  # fmt: skip
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    inner.add_special_tokens([AddedToken(token) for token in ("<s>", "</s>", *known[-2:])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    think, end = known.index("<think>"), known.index("</think>")
    word, accent = known.index("▁a"), [known.index(f"<0x{x:02X}>") for x in "é".encode()]
    row = [1, think, word, word, *accent, end, word, 2]
    assert texts_of(tokenizer, [2], [row]) == ["<think> a aé</think> a"]


def test_the_end_of_a_turn_is_read_off_the_chat_template() -> None:
    tokenizer = tagged()
    (end,) = ids_of(tokenizer, "<|im_end|>")
    assert turn_end_ids(tokenizer) == {end}
    assert turn_end_ids(tagged(None)) == frozenset()
    assert turn_end_ids(tagged("{{ messages[0].content }}")) == frozenset()
    assert turn_end_ids(tagged("{{ raise_exception('no answers') }}")) == frozenset()
    assert turn_end_ids(tagged("{{ messages[-1].content }}{{ eos_token }}")) == {EOS}
    opened = CHATML.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", "")
    assert turn_end_ids(tagged(opened)) == {end}, "it always opens the next message"
    assert ids_without_text(tagged(None), [EOS]) == {PAD, BOS, EOS}
    assert ids_without_text(tokenizer, [EOS]) == {PAD, BOS, EOS, end}


def test_a_model_without_any_eos_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tagged()
    endless = {"model.sampling": Sampling(), "model.eval_sampling": Sampling(group_size=1)}
    with caplog.at_level(logging.WARNING):
        tell_of_endings(tokenizer, [EOS], endless)
        assert caplog.text == ""
        tell_of_endings(tokenizer, [], endless)
    (end,) = turn_end_ids(tokenizer)
    assert "every completion runs to max_new_tokens" in caplog.text
    ends = f'The chat template ends a turn with "<|im_end|>", [{end}].'
    assert f"of model.sampling and model.eval_sampling. {ends}" in caplog.text
    caplog.clear()
    stopped = {"a": Sampling(stop_strings=["x"]), "b": Sampling(eos_token_ids=[EOS])}
    tell_of_endings(tagged(None), (), {**stopped, "sampling": Sampling()})
    assert caplog.text.endswith("Set eos_token_ids or stop_strings of sampling.\n")
    caplog.clear()
    tell_of_endings(tagged(None), (), stopped)
    assert caplog.text == ""
