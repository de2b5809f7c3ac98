"""The folder of an evaluation."""

from __future__ import annotations

import hashlib
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


def test_parts_are_named_after_their_arm_and_hold_only_its_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = store.part("a", "sums", 3), store.part("b", "sums", 3)
    named = hashlib.sha256(b"a").hexdigest()[:16]
    assert one == tmp_path / f"parts/{named}.sums.000003.parquet"
    done = Completion(text="x", question="q", answer="1", num_tokens=4, finished=True)
    place = {"benchmark": "sums", "arm": "a", "problem": 0, "sample": 0}
    for path in (one, other):
        store.write_part(path, [row_of(place, done, 1.0, "right")])
    assert len(store.read([one])) == 1
    with pytest.raises(ConfigError, match=r"is damaged\. It holds completions of sums by a"):
        store.read([one, other])


def test_an_evaluation_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """It has no version, and its parts are numbered by the order of the arms."""
    (tmp_path / "settings.json").write_text('{"seed": 0}')
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match=r"of another version of steer-lightning.*--overwrite"):
        store.open({"seed": 0}, overwrite=False)
    store.open({"seed": 0}, overwrite=True)
    store.open({"seed": 0}, overwrite=False)


def test_verifying_again_is_one_step(tmp_path: Path) -> None:
    """Interrupted between its two files, it leaves figures of neither verifier."""
    old, new = {"seed": 0, "verifier": {"name": "old"}}, {"name": "new"}
    store = Store(tmp_path)
    store.open(old, overwrite=False)
    store.finish([], {"rows": []})
    store.open(old, overwrite=False)
    with pytest.raises(TypeError):
        store.finish([], {"rows": object()}, new)
    for verifier in (old["verifier"], new):
        with pytest.raises(ConfigError, match=r"with 'an interrupted --rescore'.*set --rescore"):
            store.open(old | {"verifier": verifier}, overwrite=False)
    store.finish([], {"rows": []}, new)
    store.open(old | {"verifier": new}, overwrite=False)
    with pytest.raises(ConfigError, match=r"verifier\.name = 'old': .*'new'"):
        store.open(old, overwrite=False)
