"""Sources, templates and the loader: real files, real mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.data import (
    GSM8K,
    Arithmetic,
    ByPassRate,
    ChatTemplate,
    Math,
    PlainTemplate,
    Records,
    Shuffled,
    make_prompts,
)
from steer_lightning.data.arithmetic import is_held_out
from steer_lightning.data.gsm8k import final_answer
from steer_lightning.data.loader import ResumableLoader
from steer_lightning.data.templates import check_template
from steer_lightning.testing import byte_tokenizer
from steer_lightning.testing import make_prompts as tiny_prompts

ROWS = [
    {"problem": "1+1", "solution": 2, "level": "easy"},
    {"problem": "2+2", "solution": 4, "level": "hard"},
]
COLUMNS = {"question_column": "problem", "answer_column": "solution"}


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_local_files(tmp_path: Path, suffix: str) -> None:
    problems = Records(path=str(write(tmp_path / f"data{suffix}")), **COLUMNS).load()
    assert [(p.question, p.answer, p.columns) for p in problems] == [
        ("1+1", "2", {"level": "easy"}),
        ("2+2", "4", {"level": "hard"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{broken\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "row 1 must be a JSON object"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "{}", "list of objects"),
        ("a.json", "[", "not JSON"),
        ("a.parquet", "x", "Parquet"),
        ("a.txt", "x", r"\.csv, \.json, \.jsonl.* or \.parquet"),
        ("a.jsonl", '{"q": "q", "answer": "a"}', "no such column.*q, answer.*question_column"),
        ("a.jsonl", '{"question": "", "answer": "a"}', "both a question and an answer"),
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        Records(path=str(tmp_path / name)).load()


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = str(write(tmp_path / "data.jsonl"))
    assert [p.question for p in Records(path=path, **COLUMNS, limit=1).load()] == ["1+1"]
    with pytest.raises(ConfigError, match="limit = 0"):
        Records(path=path, limit=0)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff\xfe"}')
    with pytest.raises(ConfigError, match="not JSON"):
        Records(path=str(tmp_path / "a.jsonl")).load()


def test_missing_files_show_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Records(path="nowhere.jsonl")
    with pytest.raises(ConfigError, match="no such file"):
        GSM8K(path="nowhere")
    with pytest.raises(ConfigError, match="not both"):
        Records()


def test_rows_without_answer_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"question": "q", "answer": "a"}\n{"question": "r", "answer": null}\n'
    )
    assert len(Records(path=str(tmp_path / "a.jsonl")).load()) == 1
    assert "dropped 1 of 2 rows" in caplog.text


def test_gsm8k_from_a_folder(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": "First 1.\n#### 1,200"}]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(rows[0]))
    for path in (tmp_path, tmp_path / "test.jsonl"):
        assert [p.answer for p in GSM8K("test", path=str(path)).load()] == ["1200"]
    with pytest.raises(ConfigError, match="####"):
        final_answer("no mark")


def test_math_takes_the_solution_as_the_answer(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"problem": "p", "solution": r"so \boxed{3}", "level": 5})
    )
    assert Math(path=str(tmp_path / "m.jsonl")).load()[0].answer == r"so \boxed{3}"


def test_an_unreachable_hub_names_the_option_for_a_local_path() -> None:
    with pytest.raises(ConfigError, match=r"openai/gsm8k.*`path`"):
        GSM8K("train").load()


def test_arithmetic_splits_never_overlap_and_answers_are_right() -> None:
    train = Arithmetic(1500, "train", seed=1).load()
    test = Arithmetic(200, "test", seed=1).load()
    assert len({p.question for p in train}) == 1500
    assert not {p.question for p in train} & {p.question for p in test}
    assert all(is_held_out(p.question) for p in test)
    assert all(eval(p.question) == int(p.answer) >= 0 for p in train + test)
    assert (
        Arithmetic(9, seed=1).load() == Arithmetic(9, seed=1).load() != Arithmetic(9, seed=2).load()
    )


@pytest.mark.parametrize(
    "arguments",
    [{"num_problems": 0}, {"largest": 9}, {"operations": "*"}, {"operations": ""}],
)
def test_arithmetic_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"Arithmetic.{next(iter(arguments))}"):
        Arithmetic(**arguments)


def test_more_arithmetic_than_there_is() -> None:
    with pytest.raises(ConfigError, match="more than there are"):
        Arithmetic(500, "test", largest=19).load()


def test_templates() -> None:
    tokenizer = byte_tokenizer()
    plain = PlainTemplate(r"Q: {question} \boxed{} A:")
    assert plain.render("1+1", tokenizer) == r"Q: 1+1 \boxed{} A:"
    with pytest.raises(ConfigError, match=r"must contain \{question\}"):
        PlainTemplate("no question")
    with pytest.raises(ConfigError, match=r"no chat template.*PlainTemplate"):
        check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    assert ChatTemplate("be kind").render("1+1", tokenizer) == "[system]be kind[user]1+1>"
    assert ChatTemplate(None).render("1+1", tokenizer) == "[user]1+1>"
    check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="drops the question"):
        check_template(ChatTemplate(), tokenizer)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"  # as Gemma 2
    with pytest.raises(ConfigError, match=r"System role not supported.*system: null"):
        check_template(ChatTemplate(), tokenizer)


class Fixed:
    def __init__(self, *questions: str) -> None:
        self.questions = questions

    def load(self) -> list[object]:
        from steer_lightning.types import Problem

        return [Problem(question=q, answer="0") for q in self.questions]


def test_over_long_prompts_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    template = PlainTemplate("{question}")
    prompts = make_prompts(Fixed("abc", "abcdef", "ab"), template, byte_tokenizer(), 3)
    assert [(p.id, p.text, len(p.token_ids)) for p in prompts] == [(0, "abc", 3), (2, "ab", 2)]
    assert "dropped 1 of 3 prompts" in caplog.text
    with pytest.raises(ConfigError, match="all 1 prompts of Fixed are longer"):
        make_prompts(Fixed("abcdef"), template, byte_tokenizer(), 3)
    with pytest.raises(ConfigError, match="no problems"):
        make_prompts(Fixed(), template, byte_tokenizer(), 3)


def served(loader: ResumableLoader, count: int) -> list[list[int]]:
    """Ids of the next batches, over the ends of epochs."""
    found: list[list[int]] = []
    while True:
        for batch in loader:
            found.append([prompt.id for prompt in batch])
            if len(found) == count:
                return found


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_the_loader_goes_on_where_it_stood(stop: int) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    whole = served(ResumableLoader(prompts, 3, 4, Shuffled()), 7)  # 3 batches an epoch
    assert len({number for batch in whole[:3] for number in batch}) == 9  # one of 10 is left out
    assert whole[:3] != whole[3:6]
    first = ResumableLoader(prompts, 3, 4, Shuffled())
    before = served(first, stop)
    second = ResumableLoader(prompts, 3, 4, Shuffled())
    second.load_state_dict(first.state_dict())
    assert before + served(second, 7 - stop) == whole


# ---- orders


@pytest.mark.parametrize("order", [Shuffled(), ByPassRate()], ids=lambda x: type(x).__name__)
def test_further_prompts_are_none_of_the_step_and_do_not_shorten_an_epoch(order) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    loader = ResumableLoader(prompts, 3, 4, order)
    for epoch in range(3):
        batches = 0
        for batch in loader:
            batches += 1
            further = loader.take(2, without=batch)
            again = loader.take(4, without=[*batch, *further])
            ids = [prompt.id for prompt in (*batch, *further, *again)]
            assert len(set(ids)) == 9
            rest = loader.take(5, without=[*batch, *further, *again])
            assert len(rest) == 1, "there are no more"
            assert loader.take(5, without=prompts) == []
        assert batches == 3
        assert loader.state_dict()["epoch"] == epoch + 1


@pytest.mark.parametrize("make", [Shuffled, ByPassRate])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_order_goes_on_where_it_stood_in_the_midst_of_refills(make, stop: int) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])

    def run(loader: ResumableLoader, first: int, last: int) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < last - first:
            for batch in loader:
                further = loader.take((first + len(found)) % 3, without=batch)
                drawn = [*batch, *further]
                found.append([prompt.id for prompt in drawn])
                rewards = torch.tensor([[float(k % 2), float(k % 3 == 0)] for k in found[-1]])
                loader.record(drawn, rewards)
                if len(found) == last - first:
                    break
        return found

    whole = run(ResumableLoader(prompts, 3, 4, make()), 0, 7)
    first = ResumableLoader(prompts, 3, 4, make())
    before = run(first, 0, stop)
    second = ResumableLoader(prompts, 3, 4, make())
    second.load_state_dict(first.state_dict())
    assert before + run(second, stop, 7) == whole


def test_pass_rates_and_chances_by_hand() -> None:
    order = ByPassRate(floor=0.05, decay=0.5, passes_at=0.5)
    order.start(4, 0)
    assert order.weights().tolist() == pytest.approx([0.3] * 4), "nothing is known: all alike"
    nan = float("nan")
    order.record([0, 2, 3], torch.tensor([[1.0, 0.5, 0.4, 0.0], [1.0] * 4, [nan, nan, 0.0, 1.0]]))
    assert order.rates.tolist() == pytest.approx([0.5, nan, 1.0, 0.5], nan_ok=True)
    # 1/4, 0 and 1/4, and their mean 1/6 for the one not measured
    assert order.weights().tolist() == pytest.approx([0.3, 1 / 6 + 0.05, 0.05, 0.3])
    order.record([0, 2], torch.tensor([[1.0] * 4, [nan] * 4]))
    assert order.rates.tolist() == pytest.approx([0.75, nan, 1.0, 0.5], nan_ok=True)


def test_prompts_come_up_in_proportion_to_their_weights() -> None:
    order = ByPassRate(floor=0.05)
    order.start(4, 1)
    order.record([0, 1, 2, 3], torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    draws = [order.take(1)[0] for _ in range(4000)]
    shares = [draws.count(k) / len(draws) for k in range(4)]
    expected = [0.3 / 0.7, 0.05 / 0.7, 0.05 / 0.7, 0.3 / 0.7]
    assert shares == pytest.approx(expected, abs=0.025)  # three standard deviations
    assert sorted(order.take(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("settings", [{"floor": 0.0}, {"decay": 1.0}, {"decay": -0.1}])
def test_settings_of_the_curriculum(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"data.order.{next(iter(settings))}"):
        ByPassRate(**settings)
