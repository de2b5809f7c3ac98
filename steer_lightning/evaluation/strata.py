"""Problems in strata by the base's pass rate, so that gains can be told apart by difficulty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.arms import BASE
from steer_lightning.evaluation.store import Row


def check_strata(strata: Sequence[float], base_sampling: Any, num_samples: Iterable[int]) -> None:
    """Raises a ConfigError for bounds of strata, or for samples from which none can be made.

    Args:
        strata: Bounds between the strata.
        base_sampling: Settings with which only the base answers; None if it answers as the arms do.
        num_samples: Number of samples of each benchmark.
    """
    if list(strata) != sorted(set(strata)) or not all(0 < bound < 1 for bound in strata):
        rule = "must be ascending numbers above 0 and below 1"
        raise ConfigError("strata", list(strata), rule=rule, why="They are bounds of pass rates")
    if not strata:
        return
    if base_sampling is not None:
        raise ConfigError(
            "strata",
            list(strata),
            rule="needs base_sampling: null",
            why="Half of the base's samples make the strata, and the other half is compared with "
            "the same half of each arm",
            fix="Leave out base_sampling, or strata",
        )
    if min(num_samples) < 2:
        raise ConfigError(
            "strata",
            list(strata),
            rule="needs at least 2 samples of each problem",
            why="Half of the base's samples make the strata, and the other half is measured",
            fix="Set num_samples: 8, or more",
        )


def num_measured(num_samples: int, strata: Sequence[float]) -> int:
    """Returns how many of a problem's samples are measured: with strata, the second half.

    Args:
        num_samples: Number of samples of the problem.
        strata: Bounds between the strata.
    """
    return num_samples - num_samples // 2 if strata else num_samples


def in_strata(rows: Sequence[Row], strata: Sequence[float]) -> list[Row]:
    """Sorts the problems of an evaluation into strata (SPARKLE, arXiv 2506.04723).

    A problem's stratum is decided by the base's pass rate p over the first half of its samples, and
    the second half of all arms' samples is kept to be measured. If the same samples did both, the
    base would look worse on hard problems and better on easy ones than it is, since chance decides,
    too, where a problem is put, and every other arm would seem to gain on hard ones.

    Args:
        rows: Rows of an evaluation whose arms have equally many samples.
        strata: Bounds b_1 < b_2 < ... between the strata: p < b_1, b_1 <= p < b_2, and so on.

    Returns:
        Rows of the second half, numbered from 0, hardest stratum first. Their benchmark is named
        after the stratum, such as `sums, base 0-25 %`. Problems none of whose samples in the first
        half has a verdict are left out.
    """
    found: list[Row] = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        half = (1 + max(row["sample"] for row in of_it)) // 2
        rates = _rates(row for row in of_it if row["arm"] == BASE and row["sample"] < half)
        ends = [0.0, *strata, 1.0]
        for number, (low, high) in enumerate(pairwise(ends)):
            name = f"{benchmark}, base {100 * low:g}-{100 * high:g} %"
            found += [
                {**row, "benchmark": name, "sample": row["sample"] - half}
                for row in of_it
                if row["sample"] >= half
                and row["problem"] in rates
                and sum(rates[row["problem"]] >= bound for bound in strata) == number
            ]
    return found


def _rates(rows: Iterable[Row]) -> dict[int, float]:
    """Returns the pass rate of each problem that has a verdict; 1 or more counts as right."""
    verdicts: dict[int, list[bool]] = {}
    for row in rows:
        if row["verdict"] is not None:
            verdicts.setdefault(row["problem"], []).append(row["verdict"] >= 1)
    return {problem: sum(right) / len(right) for problem, right in verdicts.items()}
