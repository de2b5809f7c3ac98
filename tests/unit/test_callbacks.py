"""What the callbacks show, worked by hand; and the door to them."""

from __future__ import annotations

import math
import queue
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

import callbacks
import steer_lightning.callbacks as inside
from callbacks.my_callback import StopWhenSolved
from steer_lightning import ConfigError, SteeringModule
from steer_lightning.callbacks import graceful_stop
from steer_lightning.callbacks.benchmark_eval import BenchmarkEval, Result
from steer_lightning.callbacks.guard import Guard, why_no_signal
from steer_lightning.callbacks.last_checkpoint import WholeFileCheckpointIO
from steer_lightning.callbacks.progress_bar import sparkline
from steer_lightning.callbacks.reward_logger import completion_metrics, reward_metrics
from steer_lightning.callbacks.rollout_table import RolloutTable, as_table, merge
from steer_lightning.callbacks.run_folder import claim
from steer_lightning.evaluation import BenchmarkMetrics
from steer_lightning.results.report.curve import draw_reward_curve
from steer_lightning.results.report.series import read_series, trailing_mean
from steer_lightning.rewards import Scores
from steer_lightning.rollout import Sampling
from steer_lightning.system.printable import printable
from steer_lightning.testing import make_prompts
from steer_lightning.training.step import Step, Update, gather_rows
from steer_lightning.types import Rollouts

NAN = float("nan")


def step(texts: tuple[str, ...] = ("one", "two", "three", "four")) -> Step:
    rollouts = Rollouts(
        prompts=tuple(make_prompts(["p", "q"], ["1", "2"])),
        group_size=2,
        completion_ids=torch.tensor([[5, 2, 0], [5, 6, 7], [5, 0, 0], [5, 2, 0]]),
        completion_mask=torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool(),
        logprobs=torch.tensor([[-1.0, -1.0, 0], [-2.0, -1.0, -1.0], [-1.0, 0, 0], [-0.5, -0.5, 0]]),
        finished=torch.tensor([True, False, False, True]),
        texts=texts,
    )
    scores = Scores(total=[1.0, 0.0, None, 1.0], parts={"MathReward": [1.0, 0.0, None, 1.0]})
    return Step(
        **vars(gather_rows(rollouts, scores, rollout_seconds=1.0)),
        rollouts=rollouts,
        scores=scores,
        own=torch.arange(2),
        advantages=torch.tensor([[1.0, -1.0], [0.0, 0.0]]),
        takes_part=torch.ones(2, 2, dtype=torch.bool),
        kl=None,
        update=Update(
            loss=0.1,
            loss_metrics={},
            mismatch={},
            gradient_norm=1.5,
            skipped=False,
            learning_rate=0.01,
        ),
        seconds=2.0,
    )


def test_the_door_leads_to_the_same_classes() -> None:
    assert callbacks.__all__ == inside.__all__
    assert all(getattr(callbacks, name) is getattr(inside, name) for name in inside.__all__)


def test_reward_metrics_by_hand() -> None:
    assert reward_metrics(step()) == pytest.approx(
        {
            "reward/mean": 2 / 3,
            "reward/std": math.sqrt(2 / 9),
            "reward/no_signal_share": 0.5,
            "reward/num_unscored": 1.0,
            "reward/MathReward": 2 / 3,
        }
    )


def test_completion_metrics_by_hand() -> None:
    assert completion_metrics(step()) == pytest.approx(
        {
            "completion/length_mean": 2.0,
            "completion/length_max": 3.0,
            "completion/cut_off_share": 0.5,
            "completion/entropy": 8.0 / 8,
        }
    )


def test_benchmark_metrics_add_up_over_batches() -> None:
    metrics = BenchmarkMetrics()
    metrics.update_with(step().rollouts, [1.0, 0.0, None, 0.0])
    metrics.update_with(step().rollouts, [1.0, 1.0, 1.0, 1.0])
    # four problems with means 1/2, 0, 1, 1, of which the bootstrap draws four: their sum is at most
    # 1/2 in 5 of 256 draws, 2.0 %, and 1 is what comes next; it is 4 in 1 of 16, more than 2.5 %
    expected = {
        "accuracy": 5 / 7,
        "accuracy_low": 1 / 4,
        "accuracy_high": 1.0,
        "completion_length": 2.0,
        "cut_off_share": 0.5,
        "num_unscored": 1.0,
    }
    assert metrics.result() == pytest.approx(expected)
    unscored = BenchmarkMetrics()
    unscored.update_with(step().rollouts, [None] * 4)
    with pytest.raises(ConfigError, match="gold answer"):
        unscored.result()


def test_rollouts_round_trip_through_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for number in (1, 2):
        pq.write_table(
            as_table(step(("a\x1b[2J", "\ud800", "", "ü")), number),
            folder / f"step_{number:06d}.parquet",
        )
    merge(folder, tmp_path / "rollouts.parquet")
    rows = pq.read_table(tmp_path / "rollouts.parquet").to_pylist()
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    assert [row["completion"] for row in rows[:4]] == [
        "a\x1b[2J",
        "?",
        "",
        "ü",
    ]  # the file keeps what was written
    assert [row["reward"] for row in rows[:4]] == [1.0, 0.0, None, 1.0]
    assert [row["advantage"] for row in rows[:4]] == [1.0, -1.0, 0.0, 0.0]
    assert [row["prompt_id"] for row in rows[:4]] == [0, 0, 1, 1]
    assert not folder.exists()


def test_control_characters_are_shown_not_sent() -> None:
    assert printable("a\x1b[2J\r\u202eb\n\tc") == "a\\x1b[2J\\r\\u202eb\n\tc"


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.5]) == "▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([float(k) for k in range(100)])) == 12


def test_first_and_last_accuracy() -> None:
    callback = BenchmarkEval({"a": None, "b": None})  # type: ignore[dict-item]

    def result(name: str, number: int, accuracy: float) -> Result:
        return Result(
            benchmark=name,
            step=number,
            accuracy=accuracy,
            completion_length=1,
            cut_off_share=0,
            num_unscored=0,
        )

    callback.results = [
        result("a", 0, 0.1),
        result("b", 0, 0.2),
        result("a", 5, 0.3),
        result("b", 5, 0.4),
    ]
    assert callback.accuracy(last=False) == {"a": 0.1, "b": 0.2}
    assert callback.accuracy(last=True) == {"a": 0.3, "b": 0.4}
    assert callback.interval(last=True) == {"a": [None, None], "b": [None, None]}
    callback.results[2] = replace(callback.results[2], accuracy_low=0.25, accuracy_high=0.35)
    assert callback.interval(last=True) == {"a": [0.25, 0.35], "b": [None, None]}
    other = BenchmarkEval({"a": None})  # type: ignore[dict-item]
    other.load_state_dict(callback.state_dict())
    assert other.results == callback.results


def test_skipped_batches_are_kept_and_stop_the_run_after_some(tmp_path: Path, caplog) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, global_step=0)
    guard = Guard(max_skipped=2, no_signal_steps=3)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    module = SteeringModule(sampling=Sampling(group_size=2))
    plain = step()
    bad = replace(plain, update=replace(plain.update, skipped=True))
    for number, found in enumerate((bad, plain, bad), 1):
        trainer.global_step, module.last_step = number, found
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    trainer.global_step = 4
    with pytest.raises(FloatingPointError, match="2 steps in a row"):
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "skipped").iterdir())
    assert names == ["step_000001.pt", "step_000003.pt", "step_000004.pt"]
    kept = torch.load(tmp_path / "skipped/step_000001.pt", weights_only=True)
    assert torch.equal(kept["completion_ids"], bad.rollouts.completion_ids)
    assert kept["texts"] == ["one", "two", "three", "four"]
    other = Guard()
    other.load_state_dict(guard.state_dict())
    assert other._skipped == 2


def test_lost_signal_is_told_once_with_its_likely_cause(tmp_path: Path, caplog) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, global_step=0)
    module = SteeringModule(sampling=Sampling(group_size=2))
    silent = replace(step(), rewards=torch.zeros(2, 2), advantages=torch.zeros(2, 2))
    guard = Guard(no_signal_steps=2)
    guard.setup(trainer, None, "fit")  # type: ignore[arg-type]
    for found in (silent, step(), silent, silent, silent):
        module.last_step = found
        guard.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert caplog.text.count("no group has had signal for 2 steps") == 1
    assert "2 cut off, rewards from 0 to 0" in caplog.text
    assert "data.template" in why_no_signal(silent, 2)
    cut = replace(silent, finished=torch.zeros(2, 2).bool())
    assert "max_new_tokens" in why_no_signal(cut, 2)
    unscored = replace(silent, rewards=torch.full((2, 2), NAN))
    assert "answer column" in why_no_signal(unscored, 2)
    for outcome, cause in (
        ("timed_out", "deadline"),
        ("unparseable", "no mathematics"),
        ("wrong", "too hard"),
        ("right", "all is solved"),
    ):
        outcomes = {"MathReward": {outcome: 3, "no_answer": 1}}
        # the sum with other rewards says nothing about right or wrong
        rewards = torch.full((2, 2), 0.5)
        told = why_no_signal(replace(silent, outcomes=outcomes, rewards=rewards), 2)
        assert cause in told
        assert f"3 {outcome.replace('_', ' ')}" in told
        assert "1 without an answer" in told


def test_two_benchmark_evals_keep_their_own_results() -> None:
    one, two = BenchmarkEval({"a": None}), BenchmarkEval({"b": None})  # type: ignore[dict-item]
    again = BenchmarkEval({"a": None}, sampling=Sampling(group_size=4))  # type: ignore[dict-item]
    assert len({one.state_key, two.state_key, again.state_key}) == 3


def test_a_checkpoint_that_can_not_be_written_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match="pickle"):
        WholeFileCheckpointIO().save_checkpoint({"step": 2, "bad": lambda: None}, path)
    assert WholeFileCheckpointIO().load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_console_shows_text_as_it_was_written() -> None:
    table = RolloutTable(max_characters=12)
    shown = "\n".join(table._show(step((r"so \boxed{1}", "two\nlines", "x" * 13, "")), 3))
    assert r'"so \boxed{1}"' in shown
    assert r'"two\nlines"' in shown
    assert f'"{"x" * 12}" ... (13 characters)' in shown


def test_nothing_of_an_earlier_run_is_overwritten(tmp_path: Path) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path))
    path = claim(trainer, "summary.json")  # type: ignore[arg-type]
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"summary\.json of an earlier run"):
        claim(trainer, "summary.json")  # type: ignore[arg-type]


def test_the_curve_is_drawn_from_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "benchmark/sums/accuracy,epoch,reward/mean,step\n0.1,,,0\n,0,0.25,0\n,0,0.75,1\n0.9,,,2\n"
    )
    assert read_series(tmp_path) == {
        "benchmark/sums/accuracy": [(0, 0.1), (2, 0.9)],
        "reward/mean": [(0, 0.25), (1, 0.75)],
    }
    assert draw_reward_curve(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert trailing_mean([1.0, 2.0, 3.0], 2) == [1.0, 1.5, 2.5]


def test_the_template_callback_stops_after_enough_good_steps() -> None:
    callback = StopWhenSolved(reward=0.6, num_steps=2)
    trainer = SimpleNamespace(should_stop=False)
    good = SimpleNamespace(last_step=step())  # 2/3
    bad = SimpleNamespace(last_step=SimpleNamespace(rewards=torch.zeros(1, 1)))
    stops = []
    for module in (good, bad, good, good):
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        stops.append(trainer.should_stop)
    assert stops == [False, False, False, True]
    other = StopWhenSolved()
    other.load_state_dict(callback.state_dict())
    assert other._in_a_row == 2
    with pytest.raises(ConfigError, match="num_steps"):
        StopWhenSolved(num_steps=0)


@pytest.fixture
def signals() -> Iterator[None]:
    """Handlers as they were, when the test is over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_failure_is_told_to_the_other_processes_though_a_callback_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graceful_stop, "PATIENCE", 0.01)
    told: queue.Queue[BaseException] = queue.Queue()
    trainer = SimpleNamespace(strategy=SimpleNamespace(on_exception=told.put))
    error = LookupError()
    inside.SignalWatch(inside.GracefulStop()).on_exception(trainer, None, error)
    assert told.get(timeout=10) is error, "while this thread does something else"


@pytest.mark.usefixtures("signals")
def test_a_sigterm_while_a_run_ends_is_no_collective_call() -> None:
    stop = inside.GracefulStop()
    stop._before = {signal.SIGTERM: lambda *_: None}  # Lightning's, which tells the other processes
    stop.on_exception(SimpleNamespace(), None, LookupError())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    stop._before = {signal.SIGTERM: signal.SIG_IGN}  # SLURM's, to a job that it puts back
    stop.on_exception(SimpleNamespace(), None, SystemExit())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
