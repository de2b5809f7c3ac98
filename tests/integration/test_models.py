"""Small models of all architectures: what the self-checks accept is what a plain pass gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.model_measure import faults, measure
from scripts.model_table import EVERY, MARK, PAGE, sweep, table, without_figures
from scripts.small_models import NAMES, NOT_ALONE, VARIANTS

KINDS = {
    "bart": ("one prompt at a time", "one row at a time"),  # positions from the padding on
    "bloom": ("generate", "padded"),  # ALiBi
    "deepseek_v3": ("fast", "packed"),  # compressed keys
    "doge": ("refused", "one row at a time"),  # windows of dynamic masks
    "gemma2": ("fast", "packed"),  # capped scores
    "gpt_oss": ("fast", "packed"),  # sinks
    "llama4_text": ("generate", "padded"),  # chunks
    "mamba": ("generate", "packed"),  # states
    "mamba2": ("generate", "packed"),
    "minimax": ("generate", "padded"),  # linear attention
    "mpt": ("generate", "padded"),  # ALiBi in a mask
    "phi3, longrope": ("refused", "refused"),  # frequencies that switch
    "phimoe, window": ("generate", "padded"),  # windows that the mask alone tells of
    "qwen3": ("fast", "packed"),
    "recurrent_gemma": ("one prompt at a time", "one row at a time"),  # states without a mask
}
"""One model of each kind, and the ways in which it is sampled and trained."""

HIDDEN_BY_ROUNDING = ("inkling_text", "plbart")
"""Models whose differences, in bfloat16, are smaller than what rounding may make."""


@pytest.mark.filterwarnings("default")  # transformers warns of its own code for some models
@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_the_checks_accept_of_each_kind_is_right(name: str) -> None:
    found = measure(name, quick=True)
    assert faults(found) == []
    ways = found.get("float32", {"sampling": "refused", "update": "refused"})
    assert (ways["sampling"], ways["update"]) == KINDS[name]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", HIDDEN_BY_ROUNDING)
@pytest.mark.slow
def test_what_rounding_hides_is_found_in_float32(name: str) -> None:
    found = measure(name)
    assert faults(found) == []
    ways = {(found[dtype]["sampling"], found[dtype]["update"]) for dtype in ("float32", "bfloat16")}
    assert len(ways) == 1


def test_an_error_and_a_silent_difference_are_faults() -> None:
    assert faults({"name": "x", "raised": "IndexError: no"}) == ["raised IndexError: no"]
    right = {"sampling_gap": {"max": 1e-6}, "update_gap": 1e-7, "update_noise": 0.0}
    assert faults({"float32": right}) == []
    assert faults({"float32": right | {"update_gap": float("nan")}}) != []
    assert faults({"float32": right | {"sampling_gap": {"max": 2e-3}}}) != []
    rounded = {"sampling_gap": {"mean": 0.15, "noise_mean": 0.1}, "update_gap": 0.3}
    assert faults({"bfloat16": rounded | {"update_noise": 0.2}}) == []
    assert faults({"bfloat16": rounded | {"update_noise": 0.1}}) != []


def test_the_table_holds_every_architecture() -> None:
    page = PAGE.read_text().split(MARK)[1].replace("\\", "")
    assert "**0 silently wrong**" in page
    for name in EVERY:
        assert f"\n| {name} | " in page, f"python -m scripts.model_table renews {PAGE}"
    assert {*EVERY, *NOT_ALONE} == {*NAMES, *VARIANTS}


@pytest.mark.slow
def test_no_architecture_is_silently_wrong_and_the_table_is_as_measured(tmp_path: Path) -> None:
    results = sweep(tmp_path / "results.jsonl")
    wrong = {found["name"]: faults(found) for found in results if faults(found)}
    assert not wrong, wrong
    written = set(without_figures(PAGE.read_text().splitlines()))
    missing = set(without_figures(table(results))) - written
    assert not missing, "\n".join(sorted(missing))
