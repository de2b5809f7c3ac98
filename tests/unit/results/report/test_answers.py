"""Answers of the base and of the steered model."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.results.report.contents import read_contents


def test_base_and_steered_stand_side_by_side(run: Path) -> None:
    answers = read_contents(run, 1, 2)["answers"]
    assert [group["prompt"] for group in answers["groups"]] == ["problem 0", "problem 1"]
    first = answers["groups"][0]["completions"]
    assert [(c["arm"], c["reward"]) for c in first] == [
        *(("base", None), ("base", None), ("steered", 1), ("steered", 1))
    ]
