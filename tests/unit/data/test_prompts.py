"""What is told of prompts, such as that they repeat each other, or are trained on and held out."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steer_lightning import ConfigError
from steer_lightning.data import (
    GSM8K,
    Arithmetic,
    PlainTemplate,
    PromptDataModule,
    Records,
    make_prompts,
)
from steer_lightning.data.prompts import load_problems
from steer_lightning.testing import byte_tokenizer
from steer_lightning.types import Problem

TEMPLATE = PlainTemplate("{question}=")


class Problems:
    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def load(self) -> list[Problem]:
        return [Problem(question=question, answer=answer) for question, answer in self.pairs]


class Broken:
    def load(self) -> list[Problem]:
        raise ConfigError("source.name", "x", rule="can't be loaded\nerror: fake")


def module(**sources: Any) -> PromptDataModule:
    found = PromptDataModule(template=TEMPLATE, batch_size=1, **sources)
    policy = SimpleNamespace(tokenizer=byte_tokenizer())
    trainer: Any = SimpleNamespace(
        lightning_module=SimpleNamespace(policy=policy), limit_val_batches=0
    )
    found.trainer = trainer
    return found


def test_repeated_prompts_are_counted_with_an_example_and_contradictions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [("1+1", "2"), ("2+2", "4"), ("1+1", "2"), ("1+1", "3"), ("2+2", "4")]
    prompts = make_prompts(Problems(*pairs), TEMPLATE, byte_tokenizer(), 99)
    assert len(prompts) == 5, "all are kept"
    told = 'Problems: 3 of 5 prompts repeat an earlier one, such as "1+1"; 1 of them have another'
    assert told in caplog.text
    caplog.clear()
    make_prompts(Arithmetic(64), TEMPLATE, byte_tokenizer(), 99)
    assert caplog.text == ""


def test_an_example_is_one_short_line_without_controls(caplog: pytest.LogCaptureFixture) -> None:
    question = "\x1b[2J\nerror: fake " + "x" * 500
    make_prompts(Problems(*[(question, "1")] * 2), TEMPLATE, byte_tokenizer(), 999)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert r'such as "\x1b[2J\nerror: fake xxx' in record.getMessage()
    assert len(record.getMessage()) < 250


def test_held_out_problems_that_are_trained_on_are_told(caplog: pytest.LogCaptureFixture) -> None:
    train = Problems(("1+1", "2"), ("What is\n2+2 ?", "4"), ("3", "3"))
    data = module(
        train=train,
        val=Problems(("5", "5")),
        test=Problems(("What  is 2+2 ?", "4"), ("7", "7"), ("3", "3")),
    )
    data.setup("fit")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        'data.test: 2 of its 3 problems are also in data.train, such as "What  is 2+2 ?": accuracy'
    )
    caplog.clear()
    data.make_prompts(data.sources["test"])
    assert caplog.text == "", "it has been told"
    data.make_prompts(Problems(("1+1", "2"), ("9", "9")))  # such as that of a BenchmarkEval
    assert "Problems: 1 of its 2 problems are also in data.train" in caplog.text


def test_splits_that_are_apart_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    data = module(train=Arithmetic(256), val=Arithmetic(64, "test"), test=Arithmetic(64, "test"))
    data.setup("fit")
    data.make_prompts(Arithmetic(64, "test", seed=5))
    assert caplog.text == ""


def test_a_test_set_that_can_not_be_read_now_is_no_reason_not_to_train(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        module(train=Problems(("1+1", "2")), test=Broken()).setup("fit")
    (record,) = caplog.records
    told = "data.test could not be compared with data.train: data.test = 'Broken': "
    assert record.getMessage().startswith(told + r"can't be loaded\nerror")


def test_the_test_stage_reads_its_own_problems_alone(caplog: pytest.LogCaptureFixture) -> None:
    data = module(train=Broken(), test=Problems(("1+1", "2")))
    data.setup("test")
    assert [prompt.text for prompt in data.prompts["test"]] == ["1+1="]
    assert caplog.text == ""


def test_a_tokenizer_without_a_vocabulary_makes_no_prompt() -> None:
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ConfigError, match=r"has no tokens \(problem 1 of Problems\)"):
        make_prompts(Problems(("2+3", "5")), PlainTemplate("{question}"), empty, 1000)


def test_questions_that_hold_special_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    questions = Problems(("2 < 3?", "5"), ("x<eos>y", "5"), ("<bos>", "5"))
    make_prompts(questions, PlainTemplate("{question}="), byte_tokenizer(), 1000)
    told = (
        'Problems: 2 of 3 questions contain text that is a special token of the model, such as "<e'
    )
    assert told in caplog.text
    assert "in problem 2:" in caplog.text


def test_characters_that_the_tokenizer_does_not_know_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = {"<unk>": 0, "two": 1, "plus": 2, "three": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with caplog.at_level(logging.WARNING):
        make_prompts(Problems(("two plus three", "5")), PlainTemplate("{question}"), tokenizer, 9)
        assert caplog.text == ""
        make_prompts(
            Problems(("two", "5"), ("two over\n", "5")), PlainTemplate("{question}"), tokenizer, 9
        )
    told = (
        '1 of 2 prompts contain characters that the tokenizer does not know, such as "two over\\n"'
    )
    assert told in caplog.text


def test_an_error_of_a_source_has_the_key_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "q", "gold": "1"}')
    told = "data.val.init_args.answer_column = 'answer': .* has no column 'answer'. Its columns are"
    with pytest.raises(ConfigError, match=told):
        load_problems(Records(str(path)), "data.val")
    # its class has no such setting, and its folder is one
    with pytest.raises(ConfigError, match=r"^data.train = 'GSM8K': .* has no column 'answer'"):
        load_problems(GSM8K(path=str(tmp_path)), "data.train")
    path.write_text("")
    with pytest.raises(ConfigError, match=r"^source.path = .*holds no rows"):
        load_problems(Records(str(path)))
