"""Completions on the console and in the Parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from steer_lightning.callbacks.rollout_table import RolloutTable, as_table, merge
from tests.made_up_step import make_step


def test_rollouts_round_trip_through_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for number in (1, 2):
        pq.write_table(
            as_table(make_step(("a\x1b[2J", "\ud800", "", "ü")), number),
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
    assert not any(row["guided"] for row in rows)
    assert not folder.exists()


def test_the_console_shows_text_as_it_was_written() -> None:
    table = RolloutTable(max_characters=12)
    lines = table._show(make_step((r"so \boxed{1}", "two\nlines", "x" * 13, "")), 3)
    shown = "\n".join(lines)
    assert r'"so \boxed{1}"' in shown
    assert r'"two\nlines"' in shown
    assert f'"{"x" * 12}" ... (13 characters)' in shown
