"""Texts, bounded in length and number."""

from __future__ import annotations

from typing import Any

from steer_lightning.results.report.texts import shortened, within_budget


def test_a_long_text_loses_its_middle_alone() -> None:
    text = "a" * 20 + "b" * 1000 + "c" * 10
    assert shortened(text, 30) == "a" * 20 + "\n[... 1,000 characters left out ...]\n" + "c" * 10
    assert shortened("x" * 30, 30) == "x" * 30


def test_the_budget_is_shared_by_the_steps() -> None:
    def group(name: str, size: int) -> dict[str, Any]:
        return {"prompt": name, "completions": [{"text": "x" * size}]}

    piles = [[group("a", 9), group("b", 9)], [group("c", 9), group("d", 9)]]
    names = [found["prompt"] for found in within_budget(piles, budget=30)]
    assert names == ["a", "b", "c"], "the first of both before the second of any"
    assert [x["prompt"] for x in within_budget(piles, budget=1)] == ["a"], "one in any case"
    assert len(within_budget(piles, budget=40)) == 4
