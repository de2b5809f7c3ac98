"""The folder of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.store import COSTS, Store, read_rows, row_of, write_rows
from steer_lightning.types import Completion


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds no evaluation"):
            Store(tmp_path).open({"seed": 0}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_evaluation_is_overwritten_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open({"seed": 0}, overwrite=False)
    store.finish([], {"rows": []})
    for name in ("comparison.png", "pass_at_k.png", "dose.png", "budget.png", "mine.png"):
        (tmp_path / name).write_text("a picture")
    store.open({"seed": 1}, overwrite=True)
    assert not store.results.exists()
    assert [path.name for path in tmp_path.glob("*.png")] == ["mine.png"]
    store.open({"seed": 1}, overwrite=False)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "completions.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ConfigError, match=r"completions\.parquet': is damaged"):
        read_rows(tmp_path / "completions.parquet")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_rows(tmp_path / "nothing.parquet")
    store = Store(tmp_path / "e")
    store.open({"seed": 0}, overwrite=False)
    store.open({"seed": 0}, overwrite=False)
    with pytest.raises(ConfigError, match=r"seed = 1: the evaluation in .* was made with 0"):
        store.open({"seed": 1}, overwrite=False)
    (tmp_path / "e/settings.json").write_text("{")
    with pytest.raises(ConfigError, match=r"settings\.json': is damaged"):
        store.open({"seed": 0}, overwrite=False)


def test_settings_are_compared_as_everywhere(tmp_path: Path) -> None:
    settings = {"sampling": {"gsm8k": {"stop": ("a", "b")}}, "verifier": {"name": "math"}}
    store = Store(tmp_path)
    store.open(settings, overwrite=False)
    store.open(settings, overwrite=False)  # JSON keeps the tuple as a list
    with pytest.raises(ConfigError, match=r"sampling\.gsm8k = \{'stop': \['a'\]\}: .*--overwrite"):
        store.open(settings | {"sampling": {"gsm8k": {"stop": ["a"]}}}, overwrite=False)
    with pytest.raises(ConfigError, match=r"sampling\.gsm8k = 'not part of this .*--overwrite"):
        store.open({"verifier": {"name": "math"}}, overwrite=False)
    with pytest.raises(ConfigError, match=r"verifier\.name = 'mine': .*'math'\. .*--rescore"):
        store.open(settings | {"verifier": {"name": "mine"}}, overwrite=False)


def test_costs_are_columns_that_may_be_unknown(tmp_path: Path) -> None:
    done = Completion(text="x", question="q", answer="1", num_tokens=4, finished=True)
    place = {"benchmark": "sums", "arm": "base", "problem": 0}
    cost = {"forward_tokens": 7, "backward_tokens": 0, "seconds": 0.5}
    rows = [
        row_of({**place, "sample": 0}, done, 1.0, "right"),
        row_of({**place, "sample": 1}, done, 1.0, "right", cost),
    ]
    write_rows(tmp_path / "rows.parquet", rows)
    found = read_rows(tmp_path / "rows.parquet")
    assert found == rows
    assert [found[0][name] for name in COSTS] == [None] * 5
    assert [found[1][name] for name in COSTS] == [7, 0, 0.5, None, None]
