"""Problems within a range of the base's pass rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import Stratum
from steer_lightning.data.prompts import load_problems
from tests.unit.data.rates import Letters, write_rates


@pytest.mark.parametrize(
    ("lowest", "below", "kept"),
    [(0.0, None, "ab"), (0.0, 0.5, "a"), (0.5, None, "b"), (0.25, 0.75, "b"), (0.0, 0.25, "a")],
)
def test_the_range(tmp_path: Path, lowest: float, below: float | None, kept: str) -> None:
    folder = write_rates(tmp_path, {"b": [1.0, 0.0], "a": [0.0, 0.0]})  # nothing of c
    found = Stratum(Letters(), str(folder), lowest, below).load()
    assert [problem.question for problem in found] == list(kept)
    assert found[0].columns["level"] == 1


def test_an_empty_stratum_is_told(tmp_path: Path) -> None:
    folder = write_rates(tmp_path, {"b": [1.0, 0.0], "a": [0.0, 0.0]})
    source = Stratum(Letters(), str(folder), 0.75)
    with pytest.raises(ConfigError, match=r"data\.train\.init_args\.lowest.*from 0 to 0\.5"):
        load_problems(source, "data.train")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lowest": 1.5}, r"Stratum\.lowest = 1\.5"),
        ({"lowest": 0.5, "below": 0.5}, r"Stratum\.below = 0\.5: must be above Stratum\.lowest"),
        ({"below": 2.0}, r"Stratum\.below = 2\.0"),
    ],
)
def test_ranges_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Stratum(Letters(), "x", **settings)
