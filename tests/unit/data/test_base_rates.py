"""Pass rates of the base from the completions of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.data.base_rates import BASE, base_rates
from steer_lightning.evaluation import arms
from tests.unit.data.rates import write_rates


def test_rates_by_hand(tmp_path: Path) -> None:
    folder = write_rates(tmp_path / "e", {"a": [1.0, 0.0, None, 0.0], "b": [1.0], "c": [None]})
    expected = {"a": pytest.approx(1 / 3), "b": 1.0}
    assert base_rates(str(folder), "key") == expected
    assert base_rates(str(folder / "completions.parquet"), "key") == expected
    assert BASE == arms.BASE


def test_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source\.rates = .*no completions of an evaluation"):
        base_rates(str(tmp_path), "source.rates")
    (tmp_path / "x.jsonl").write_text(json.dumps({"question": "a"}))
    with pytest.raises(ConfigError, match="must have the columns arm, question, verdict"):
        base_rates(str(tmp_path / "x.jsonl"), "key")
    folder = write_rates(tmp_path / "e", {"a": [None]})
    with pytest.raises(ConfigError, match="has no completion of the base with a verdict"):
        base_rates(str(folder), "key")
