"""What `sweep.json` says while a sweep goes on, and after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.sweep.experiments import Experiment, from_grid
from steer_lightning.sweep.record import Listed, SweepRecord
from steer_lightning.system.run_files import lock
from tests import made_up_sweep

GRID = {"seed_everything": [0, 1]}
OPTIONS = {"grid": GRID, "experiments": None, "each_layer": False}


def listed(
    root: Path, experiments: Sequence[Experiment] | None = None, *ended: str
) -> list[Listed]:
    experiments = from_grid(GRID) if experiments is None else experiments
    for one in experiments:
        (root / one.name / "run-1").mkdir(parents=True, exist_ok=True)
    return [
        Listed(experiment=one, folder=root / one.name / "run-1", ended=one.name in ended)
        for one in experiments
    ]


def read(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "sweep.json").read_text())
    return found


def statuses(root: Path) -> list[str]:
    return [one["status"] for one in read(root)["experiments"]]


def test_each_change_is_written(tmp_path: Path) -> None:
    told: list[str] = []
    record = SweepRecord(tmp_path, OPTIONS, listed(tmp_path))
    seen: list[list[str]] = []

    def train(name: str, end: float) -> None:
        seen.append(statuses(tmp_path))
        made_up_sweep.write_run(tmp_path / name / "run-1", end=end)

    one, two = (f"seed_everything={seed}" for seed in (0, 1))
    with record.kept(told.append):
        assert statuses(tmp_path) == ["waiting", "waiting"]
        record.watched(one, lambda: train(one, 0.5))()
        assert statuses(tmp_path) == ["ended", "waiting"]
        record.watched(two, lambda: train(two, 1.0))()
    assert seen == [["waiting", "waiting"], ["ended", "training"]]
    found = read(tmp_path)
    assert found["format"] == 1
    assert found["options"] == OPTIONS
    assert found["keys"] == {"seed_everything": "seed_everything"}
    first, second = found["experiments"]
    # 0.5 (1 - exp(-k / 5)) for k = 1 to 5, and for k = 16 to 20
    assert first["reward_start"] == pytest.approx(0.5 * (1 - 0.571021), abs=1e-5)
    assert first["reward_end"] == pytest.approx(0.5 * (1 - 0.028430), abs=1e-5)
    assert second["reward_end"] == pytest.approx(2 * first["reward_end"], abs=1e-5)
    assert first["completion_length"] == pytest.approx(20 - 18 / 4), "mean of the last five"
    assert first["steps"] == 20
    assert first["run"] == "seed_everything=0/run-1"
    assert second["benchmarks"]["sums"] == {
        "before": {"step": 0, "value": 0.2, "low": 0.1, "high": 0.3},
        "after": {"step": None, "value": 0.5, "low": 0.4, "high": 0.6},
    }
    page = tmp_path / "sweep.html"
    assert told == [f"sweep: {page}"]
    assert "sweep of 2 experiments" in page.read_text()


def test_all_train_from_the_beginning(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path, OPTIONS, listed(tmp_path))
    seen: list[list[str]] = []
    two = record.watched("seed_everything=1", lambda: seen.append(statuses(tmp_path)))
    with record.kept():
        record.watched("seed_everything=0", two)()
    assert seen == [["training", "training"]]


def raising(error: BaseException) -> Any:
    def train() -> None:
        raise error

    return train


def test_failures_and_stops_have_their_reasons(tmp_path: Path) -> None:
    experiments = [
        Experiment(name=name, settings={"seed_everything": k})
        for k, name in enumerate(("bad", "stopped", "empty"))
    ]
    record = SweepRecord(tmp_path, {}, listed(tmp_path, experiments))
    made_up_sweep.write_run(tmp_path / "bad/run-1", end=0.5, steps=3)
    made_up_sweep.write_run(tmp_path / "stopped/run-1", end=0.5)
    errors = {
        **{"bad": FloatingPointError("NaN\nin <b>step</b> 3"), "stopped": SystemExit(143)},
        "empty": SystemExit(143),
    }

    def train() -> None:
        for name, error in errors.items():
            with pytest.raises(type(error)):
                record.watched(name, raising(error))()
        raise SystemExit(143)

    with pytest.raises(SystemExit), record.kept():
        train()
    bad, stopped, empty = read(tmp_path)["experiments"]
    assert bad["status"] == "failed"
    assert bad["reason"] == r"FloatingPointError: NaN\nin <b>step</b> 3"
    assert bad["steps"] == 3
    assert (stopped["status"], stopped["reason"]) == ("stopped", None)
    assert stopped["run"] == "stopped/run-1"
    assert (empty["status"], empty["run"]) == ("stopped", None), "its folder is deleted"
    assert (tmp_path / "sweep.html").exists()


def test_long_reasons_are_cut(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path, {}, listed(tmp_path))
    with record.kept(), pytest.raises(ValueError, match="xxx"):
        record.watched("seed_everything=0", raising(ValueError("x" * 5000)))()
    reason = read(tmp_path)["experiments"][0]["reason"]
    assert len(reason) == 504
    assert reason.startswith("ValueError: xxx")


def test_an_error_before_the_training_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), SweepRecord(tmp_path, OPTIONS, listed(tmp_path)).kept():
        raise ConfigError("model.base", "none", rule="can't be found")
    assert not (tmp_path / "sweep.json").exists()
    assert not (tmp_path / "sweep.html").exists()
    made_up_sweep.make_grid(tmp_path, GRID)
    before = (tmp_path / "sweep.json").read_bytes()
    more = [*from_grid(GRID), Experiment(name="late", settings={"seed_everything": 2})]
    ended = [one.name for one in more[:2]]
    record = SweepRecord(tmp_path, OPTIONS, listed(tmp_path, more, *ended))

    def fail() -> None:
        assert len(read(tmp_path)["experiments"]) == 3
        raise ConfigError("model.base", "none", rule="can't be found")

    with pytest.raises(ConfigError), record.kept():
        fail()
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_an_error_of_the_whole_sweep_is_that_of_each(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path, OPTIONS, listed(tmp_path))
    made_up_sweep.write_run(tmp_path / "seed_everything=0/run-1")
    with pytest.raises(MemoryError), record.kept():
        raise MemoryError("out of memory")
    found = read(tmp_path)["experiments"]
    assert [one["reason"] for one in found] == ["MemoryError: out of memory"] * 2
    assert [one["run"] for one in found] == ["seed_everything=0/run-1", None]


def test_experiments_of_earlier_commands_stay(tmp_path: Path) -> None:
    made_up_sweep.make_grid(tmp_path, GRID)
    new = Experiment(name="new", settings={made_up_sweep.LR: 0.1})
    again = from_grid(GRID)[1]
    record = SweepRecord(tmp_path, {}, listed(tmp_path, [new, again], again.name))
    with record.kept():
        record.watched("new", lambda: made_up_sweep.write_run(tmp_path / "new/run-1"))()
    found = read(tmp_path)
    assert [one["name"] for one in found["experiments"]] == [
        *("new", "seed_everything=1", "seed_everything=0")
    ]
    assert set(found["keys"]) == {made_up_sweep.LR, "seed_everything"}
    assert statuses(tmp_path) == ["ended"] * 3


def test_a_second_sweep_in_the_folder_is_not_lost(tmp_path: Path) -> None:
    one, two = (
        Experiment(name=name, settings={"seed_everything": k})
        for k, name in enumerate(("one", "two"))
    )
    first = SweepRecord(tmp_path, {}, listed(tmp_path, [one]))
    with first.kept():
        with SweepRecord(tmp_path, {}, listed(tmp_path, [two])).kept():
            made_up_sweep.write_run(tmp_path / "two/run-1")
        first.watched("one", lambda: made_up_sweep.write_run(tmp_path / "one/run-1"))()
    assert [x["name"] for x in read(tmp_path)["experiments"]] == ["one", "two"]


def test_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    experiments = from_grid(GRID)
    made_up_sweep.make_grid(tmp_path, GRID)
    names = [one.name for one in experiments]
    with SweepRecord(tmp_path, OPTIONS, listed(tmp_path, experiments, *names)).kept(told.append):
        pass
    assert len(told) == 1, "the page was missing"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with SweepRecord(tmp_path, OPTIONS, listed(tmp_path, experiments, *names)).kept(told.append):
        pass
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert len(told) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is damaged"),
        ("[]", "is not a JSON object"),
        ('{"experiments": "of another tool"}', "lacks `format`"),
        ('{"format": 2, "options": {}, "keys": {}, "experiments": []}', "format 2"),
        ('{"format": 1, "options": {}, "keys": {}, "experiments": [{"name": 1}]}', "experiment 1"),
    ],
)
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        SweepRecord(tmp_path, {}, listed(tmp_path))
    assert told in str(caught.value)
    assert "move it out of the folder" in str(caught.value)
    assert (tmp_path / "sweep.json").read_text() == text


def test_a_file_that_is_spoilt_meanwhile_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = SweepRecord(tmp_path, {}, listed(tmp_path))
    with record.kept():
        (tmp_path / "sweep.json").write_text("mine")
        assert record.watched("seed_everything=0", lambda: 7)() == 7
    assert (tmp_path / "sweep.json").read_text() == "mine"
    assert "sweep.json is skipped: ConfigError" in caplog.text


def test_what_a_killed_process_left_is_settled(tmp_path: Path) -> None:
    experiments = [
        Experiment(name=name, settings={"seed_everything": k})
        for k, name in enumerate(("killed", "done", "gone", "running"))
    ]
    made_up_sweep.write_file(
        tmp_path, [made_up_sweep.entry(tmp_path, one, status="training") for one in experiments]
    )
    for name in ("killed", "done", "running"):
        made_up_sweep.write_run(tmp_path / name / "run-1")
        if name != "done":
            (tmp_path / name / "run-1/summary.json").unlink()
    held = lock(tmp_path / "running/run-1")
    with SweepRecord(tmp_path, {}, []).kept():
        pass
    assert held
    assert statuses(tmp_path) == ["stopped", "ended", "stopped", "training"]


def test_a_damaged_run_costs_its_figures_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = SweepRecord(tmp_path, OPTIONS, listed(tmp_path))
    with record.kept():
        for name in ("seed_everything=0", "seed_everything=1"):
            record.watched(
                name,
                lambda name=name: made_up_sweep.write_run(  # type: ignore[misc]
                    tmp_path / name / "run-1"
                ),
            )()
            (tmp_path / "seed_everything=0/run-1/metrics.csv").write_text("no,metrics\n1,2\n")
    shutil.rmtree(tmp_path / "seed_everything=1")
    assert statuses(tmp_path) == ["ended", "ended"]
    with SweepRecord(tmp_path, OPTIONS, listed(tmp_path, None, "seed_everything=0")).kept():
        pass
    assert "sweep.json lacks figures: run = " in caplog.text
    assert read(tmp_path)["experiments"][0]["reward_end"] is None
