"""SVAMP in the forms of its files: the hub's columns, and question and body in one text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import SVAMP
from steer_lightning.rewards import MathReward
from steer_lightning.types import Completion

# as SVAMP.json of the authors has them; the hub's copy has answers as text, and question_concat
OF_AUTHORS = [
    {
        "ID": "chal-2",
        "Body": "Dan had $ 3 left with him after he bought a candy bar. If he had $ 4 at the start",
        "Question": "How much did the candy bar cost?",
        "Equation": "( 4.0 - 3.0 )",
        "Answer": 1.0,
        "Type": "Subtraction",
    },
    {
        "ID": "chal-777",
        "Body": "There are 87 oranges and 290 bananas in Philip's collection.",
        "Question": "How big is each group of bananas?",
        "Equation": "( 290.0 / 2.0 )",
        "Answer": "145",
        "Type": "Common-Division",
    },
]
JOINED = [
    {
        "question": "At the arcade Dave had won 14 tickets and lost 2 tickets. If he used 10 to "
        "buy some toys. How many tickets did Dave have left?",
        "answer": "2",
        "type": "Subtraction",
        "id": "chal-622",
    },
    {"question": "How many are left?", "answer": "3.0", "type": "Subtraction", "id": "chal-1"},
]


def lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_body_and_question_are_one_text(tmp_path: Path) -> None:
    file = tmp_path / "SVAMP.json"
    file.write_text(json.dumps(OF_AUTHORS))
    first, second = SVAMP(path=str(file)).load()
    assert first.question == (
        "Dan had $ 3 left with him after he bought a candy bar. If he had $ 4 at the start. "
        "How much did the candy bar cost?"
    )
    assert second.question == (
        "There are 87 oranges and 290 bananas in Philip's collection. "
        "How big is each group of bananas?"
    )
    assert (first.answer, second.answer) == ("1", "145")
    assert first.columns == {"ID": "chal-2", "Equation": "( 4.0 - 3.0 )", "Type": "Subtraction"}


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", JOINED)
    lines(tmp_path / "test.jsonl", JOINED[1:])
    train = SVAMP(path=str(tmp_path)).load()
    assert [problem.question for problem in train] == [row["question"] for row in JOINED]
    assert [problem.answer for problem in train] == ["2", "3"]
    assert train[0].columns == {"type": "Subtraction", "id": "chal-622"}
    assert len(SVAMP(path=str(tmp_path), limit=1).load()) == 1
    assert SVAMP(path=str(tmp_path), skip=1).load() == SVAMP(path=str(tmp_path)).load()[1:]
    assert len(SVAMP("test", path=str(tmp_path)).load()) == 1
    with pytest.raises(ConfigError, match=r"SVAMP.path = '.*none': there is no file .*none"):
        SVAMP(path=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("gold", "written", "score"),
    [
        ("3.0", "He has 3", 1.0),
        (3.0, "7 - 4 = 3", 1.0),
        (3, "7 - 4 = 3.0", 1.0),
        ("3.0", "He has 30", 0.0),
        ("22090603", "22,090,603", 1.0),
        ("-2.00", "-2", 1.0),
        ("0.5", "1/2", 1.0),
        ("10.0", "1", 0.0),
    ],
)
def test_answers_are_read_as_numbers(
    tmp_path: Path, gold: object, written: str, score: float
) -> None:
    file = lines(tmp_path / "a.jsonl", [{**OF_AUTHORS[0], "Answer": gold}])
    (problem,) = SVAMP(path=file).load()
    assert not problem.answer.endswith(".0")
    completion = Completion(
        text=written, question="", answer=problem.answer, num_tokens=1, finished=True
    )
    assert MathReward(answer_in="last_number")([completion]) == [score]


def test_other_columns_are_refused_by_name(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", [{"question": "q", "gold": "1"}])
    with pytest.raises(ConfigError, match=r"Body, Question and Answer, .*first row are question,"):
        SVAMP(path=file).load()
    for body in ("  ", None, 3):
        file = lines(tmp_path / "b.jsonl", [{**OF_AUTHORS[0], "Body": body}])
        with pytest.raises(ConfigError, match=r"'How much did the candy .* column Body"):
            SVAMP(path=file).load()


def test_an_unreachable_hub_names_the_option_for_a_local_path() -> None:
    with pytest.raises(ConfigError, match=r"ChilleD/SVAMP.*`path`"):
        SVAMP("train").load()
