"""Values of columns as data sets have them: each has one plain text, or is refused by its row."""

from __future__ import annotations

import datetime
import json
import math
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steer_lightning import ConfigError
from steer_lightning.data import Records, records
from steer_lightning.data.columns import OddValueError, as_text, question_in, value_at
from steer_lightning.data.files import with_short_floats
from steer_lightning.data.records import to_problems
from steer_lightning.evaluation import MinervaMath, OlympiadBench
from steer_lightning.rewards import MathReward
from steer_lightning.system.printable import quoted
from steer_lightning.types import Completion

VERL = {
    "data_source": "math",
    "prompt": [{"role": "user", "content": "What is 2+3?"}],
    "reward_model": {"ground_truth": "5", "style": "rule"},
    "extra_info": {"index": 0, "question": "2+3?"},
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "5"),
        (" 5 ", " 5 "),
        (5, "5"),
        (0, "0"),
        (-3, "-3"),
        (10**30, "1" + "0" * 30),
        (5.0, "5"),
        (18.5, "18.5"),
        (-0.0, "0"),
        (1e16, "1" + "0" * 16),
        (1.5e21, "15" + "0" * 20),
        (1e-7, "0.0000001"),
        (0.1, "0.1"),
        (Decimal("5.00"), "5.00"),
        (Decimal("1E+3"), "1000"),
        (["70"], "70"),
        ([5], "5"),
        (("x",), "x"),
        ([["70"]], "70"),
        ([None], None),
        (None, None),
        ("", None),
        (" \n", None),
        (float("nan"), None),
        (Decimal("nan"), None),
    ],
)
def test_texts_and_numbers_by_hand(value: object, text: str | None) -> None:
    assert as_text(value, "answer") == text


@pytest.mark.parametrize(
    ("value", "rule", "fix"),
    [
        (["5", "7"], "is a list of 2 values", "such as answer.0"),
        ([], "is a list of 0 values", "join them in the file"),
        (
            {"value": "5", "unit": "m"},
            "holds named values: 'value', 'unit'",
            "such as answer.value",
        ),
        ([{"value": "5"}], "holds named values", "by its path"),
        (True, "is true or false", "Write it as text"),
        (b"5", "is of type bytes", "Write it as text"),
        (math.inf, "is infinite", "Write it as text"),
        (datetime.date(2024, 1, 2), "is of type date", "Write it as text"),
        ("array(['70'], dtype=object)", "is numpy's text form", "Write the value itself"),
        (" array([[1, 2],\n [3, 4]])", "is numpy's text form", "Write the value itself"),
        ("np.float64(70.0)", "is numpy's text form", "Write the value itself"),
    ],
)
def test_other_values_are_refused_with_their_row(value: object, rule: str, fix: str) -> None:
    rows = [{"question": "q", "answer": "1"}, {"question": "q", "answer": value}]
    with pytest.raises(
        ConfigError, match=rf"answer': in row 2 of f\.jsonl column 'answer' {rule}"
    ) as caught:
        to_problems(rows, "question", "answer", "f.jsonl")
    assert fix in caught.value.fix
    rows = [{"question": value, "answer": "1"}]
    with pytest.raises(
        ConfigError, match=rf"question': in row 1 of f\.jsonl column 'question' {rule}"
    ):
        to_problems(rows, "question", "answer", "f.jsonl")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_becomes_the_decimal_that_reads_back_as_the_same_number(number: float) -> None:
    text = as_text(number, "answer")
    assert text is not None
    assert float(text) == number
    assert set(text) <= set("-.0123456789")


def test_paths_lead_into_nested_values() -> None:
    row = {**VERL, "a.b": "by its own name", "a": {"b": "nested"}}
    assert value_at(row, "reward_model.ground_truth") == "5"
    assert value_at(row, "prompt.0.content") == "What is 2+3?"
    assert value_at(row, "a.b") == "by its own name"
    for path in ("reward_model.other", "prompt.1.content", "prompt.-1", "data_source.0", "none"):
        with pytest.raises(ConfigError, match=f"source.answer_column = '{path}': f has no column"):
            to_problems([row], "prompt", path, "f")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_files_of_verl(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"train.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([VERL]), path)
    else:
        path.write_text(json.dumps(VERL))
    options = {"path": str(path), "question_column": "prompt"}
    (problem,) = Records(**options, answer_column="reward_model.ground_truth").load()
    assert (problem.question, problem.answer) == ("What is 2+3?", "5")
    assert problem.columns == {key: VERL[key] for key in VERL if key != "prompt"}
    (problem,) = Records(
        path=str(path), question_column="extra_info.question", answer_column="extra_info.index"
    ).load()
    assert (problem.question, problem.answer) == ("2+3?", "0")
    with pytest.raises(ConfigError, match=r"row 1 of .*'ground_truth', 'style'.*\.ground_truth"):
        Records(**options, answer_column="reward_model").load()
    with pytest.raises(ConfigError, match=r"Its columns are data_source, prompt, reward_model\.gr"):
        Records(**options, answer_column="ground_truth").load()


def test_a_conversation_of_several_messages_is_refused_by_roles() -> None:
    user = VERL["prompt"][0]
    asked = [{"role": "system", "content": "Think."}, user]
    with pytest.raises(OddValueError, match="conversation of 'system', 'user'") as caught:
        question_in(asked, "prompt")
    assert "prompt.1.content" in caught.value.fix
    row = {"prompt": asked, "answer": "5"}
    assert to_problems([row], "prompt.1.content", "answer", "f")[0].question == "What is 2+3?"
    with pytest.raises(OddValueError, match="conversation of 'assistant'"):
        question_in([{"role": "assistant", "content": "5"}], "prompt")
    parts = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    with pytest.raises(OddValueError, match="holds named values: 'type', 'text'") as caught:
        question_in(parts, "prompt")
    path = "prompt.0.content.0.text"
    assert caught.value.fix == f"Name one of them by its path, such as {path}"
    assert value_at({"prompt": parts}, path) == "?"


def test_odd_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def load(question: Any, answer: Any) -> list[tuple[str, str]]:
        pq.write_table(pa.table({"question": question, "answer": answer}), path)
        return [(p.question, p.answer) for p in Records(path=str(path)).load()]

    texts = pa.array(["a", "b", "a"])
    assert load(texts.dictionary_encode(), pa.array([1, None, 3], pa.int64())) == [
        ("a", "1"),
        ("a", "3"),
    ]
    assert load(texts.cast(pa.large_string()), pa.array([1e16, float("nan"), 0.5])) == [
        ("a", "10000000000000000"),
        ("a", "0.5"),
    ]
    decimals = pa.array([Decimal("5.00")], pa.decimal128(5, 2))
    assert load(pa.array(["q"]), decimals) == [("q", "5.00")]
    assert load(pa.array(["q"]), pa.array([["70"]])) == [("q", "70")]
    with pytest.raises(
        ConfigError, match=r"question': in row 1 of .* column 'question' is of type bytes"
    ):
        load(pa.array([b"bytes"]), pa.array([1]))
    with pytest.raises(
        ConfigError, match=r"answer': in row 1 of .* column 'answer' is of type datetime"
    ):
        load(pa.array(["q"]), pa.array([datetime.datetime(2024, 1, 2)]))


def test_short_floats_of_parquet_are_what_was_written(tmp_path: Path) -> None:
    path, kind = tmp_path / "a.parquet", pa.float32()
    numbers = [70.3, 0.1, 1e16, None, float("nan"), 5.0]
    table = {
        "question": ["q"] * 6,
        "answer": pa.array(numbers, kind),
        "halves": pa.array(np.float16([0.1] * 6)),
        "list": pa.array([[x] for x in numbers], pa.list_(kind)),
        "nested": pa.array([{"x": [{"y": x}]} for x in numbers]).cast(
            pa.struct([("x", pa.list_(pa.struct([("y", kind)])))])
        ),
        "map": pa.array([[("k", x)] for x in numbers], pa.map_(pa.string(), kind)),
        "doubles": pa.array([70.30000305175781] * 6),
    }
    pq.write_table(pa.table(table), path)
    first, *_, last = problems = Records(path=str(path)).load()
    assert [p.answer for p in problems] == ["70.3", "0.1", "1" + "0" * 16, "5"]
    assert first.columns == {
        "halves": 0.1,
        "list": [70.3],
        "nested": {"x": [{"y": 70.3}]},
        "map": [("k", 70.3)],
        "doubles": 70.30000305175781,
    }
    assert type(last.columns["halves"]) is float
    for column in ("list", "nested.x.0.y"):
        assert Records(path=str(path), answer_column=column).load()[0].answer == "70.3"


@example(number=999999986991104.0)  # 1e15: one digit, though its text is longer
@given(number=st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_short_float_becomes_the_shortest_number_that_rounds_to_it(number: float) -> None:
    schema = pa.schema([("x", pa.float32())])
    ((found,),) = (row.values() for row in with_short_floats([{"x": number}], schema))
    assert np.float32(found) == np.float32(number)
    assert num_digits(found) <= num_digits(number)


def num_digits(number: float) -> int:
    """Digits that are needed to write a number, such as 1 for 1000.0."""
    return len(Decimal(repr(number)).normalize().as_tuple().digits)


def test_short_floats_of_the_hub_are_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("float32")}
    )
    rows = datasets.Dataset.from_dict({"question": ["q"], "answer": [70.3]}, features=features)
    assert rows[0]["answer"] != 70.3
    monkeypatch.setattr(records, "hub_or_cache", lambda *_: nullcontext())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert Records(hub_name="some/thing").load()[0].answer == "70.3"


PRINTED = [
    *("nan", "NaN", "None", "null", " NULL\n", "N/A", "<NA>", "NaT"),
    *("b'70'", 'b"70"', "{'ground_truth': '70', 'style': 'rule'}"),
    "[{'role': 'user', 'content': 'What is 2+3?'}]",
]
MEANT = [
    *("\\text{None}", "(A) None", "none of these", "\\{1, 2\\}", "{1, 2}", "{'a', 'b'}", "[1, 2]"),
    *("['70']", "(0, 1]", '{"inputs": ["1"]}', "b", "B'C'", "n", "array", "f(x)", "\\sin(x)"),
    *("NaCl", "Nancy", "NA", "0", "array([1]) has how many elements?"),
]


@pytest.mark.parametrize("text", PRINTED)
def test_what_a_program_writes_of_missing_and_nested_values_is_told(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"question": "q", "answer": x} for x in ("", "7", text, text)]
    found = to_problems(rows, "question", "answer", "f.csv")
    assert [p.answer for p in found] == ["7", text, text], "it may be meant"
    (record,) = (r for r in caplog.records if "dropped" not in r.getMessage())
    told = record.getMessage()
    assert told.startswith("f.csv: 2 questions or answers look like a missing or nested value")
    assert f"such as {quoted(text)} in row 3." in told
    caplog.clear()
    to_problems([{"question": text, "answer": "7"}], "question", "answer", "f.csv")
    assert "f.csv: 1 questions or answers look like" in caplog.text


@pytest.mark.parametrize("text", MEANT)
def test_answers_that_people_write_are_not_told(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (found,) = to_problems([{"question": text, "answer": text}], "question", "answer", "f")
    assert (found.question, found.answer, caplog.text) == (text, text, "")


@pytest.mark.parametrize(
    ("gold", "perfect"),
    [("2", "2"), ("\\frac{1}{2}", "0.5"), ("$\\sqrt{5}$", "\\sqrt{5}"), ("(1,2)", "(1, 2)")],
)
def test_golds_in_lists_of_one_can_be_met(tmp_path: Path, gold: str, perfect: str) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": [gold]}))
    (problem,) = OlympiadBench(str(path)).load()
    path.write_text(json.dumps({"problem": "q", "solution": [f"so \\boxed{{{gold}}}"]}))
    (boxed,) = MinervaMath(str(path)).load()
    for answer in (problem.answer, boxed.answer):
        completion = Completion(
            text=f"\\boxed{{{perfect}}}", question="q", answer=answer, num_tokens=1, finished=True
        )
        assert MathReward()([completion]) == [1.0]


def test_a_column_may_be_missing_from_some_rows(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "q"}, {"question": "r", "answer": "5"}, {"answer": "6"}]
    assert [p.question for p in to_problems(rows, "question", "answer", "f")] == ["r"]
    assert "f: dropped 2 of 3 rows without question or answer, the first being row 1" in caplog.text
    with pytest.raises(ConfigError, match="Its rows have no columns"):
        to_problems([{}], "question", "answer", "f")


def test_half_characters_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "q\ud83d", "answer": "1"}, {"question": "é🙂", "answer": "2"}]
    found = to_problems(rows, "question", "answer", "f")
    assert [p.question for p in found] == ["q?", "é🙂"]
    assert "f: 1 of 2 problems contain half of a surrogate pair" in caplog.text
