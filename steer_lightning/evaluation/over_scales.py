"""The arm that answers at several scales at once: votes, and the best of n, over scales.

Source: Fractional Reasoning (arXiv 2506.15882), which samples answers at several scales of one
direction and takes the answer of the majority, or the best one by a judge.

With S scales and k samples of each problem, sample j of the arm is sample j at scale number j mod
S. So the arm has k samples like every other arm, costs as many tokens, and draws the same random
numbers. `maj@k` is the majority over scales, and `pass@k` the best of k by a perfect judge, which
bounds what any judge can find. No completion is sampled for it.

Degenerate case: with equal scales it would be the arm of that scale; `evaluate` refuses equal ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.arms import Arm
from steer_lightning.evaluation.store import Row
from steer_lightning.rewards import MathReward

KEY = "vote_over_scales"
ALL = "all scales"


def check_over_scales(
    is_set: bool, scales: Sequence[float], results: Sequence[str], verifier: object
) -> None:
    """Raises a ConfigError for settings with which there is nothing to vote on.

    Args:
        is_set: Whether answers shall vote over scales; if not, all settings are right.
        scales: Scales of the evaluation.
        results: Names of the results of runs that are evaluated.
        verifier: Reward that decides which answers are right.
    """
    told = {
        "vectors": (not results, "null, so there is nothing to scale"),
        "scales": (len(scales) < 2, f"{list(scales)}, which are fewer than two"),
        "verifier": (
            not isinstance(verifier, MathReward),
            f"a {type(verifier).__name__}, which finds no answers that could vote",
        ),
    }
    for key, (is_wrong, value) in told.items():
        if is_set and is_wrong:
            fix = f"Set {key}, or leave {KEY} out"
            raise ConfigError(KEY, True, rule=f"contradicts {key}: it is {value}", fix=fix)


def check_samples(num_samples: Mapping[str, int], num_scales: int) -> None:
    """Raises a ConfigError if a scale would have no sample.

    Args:
        num_samples: Number of samples of each problem that are measured, by benchmark; half of all
            with strata.
        num_scales: Number of scales.
    """
    for name, number in num_samples.items():
        if number < num_scales:
            raise ConfigError(
                KEY,
                True,
                rule=f"contradicts num_samples: each problem of {name} has {number} samples to "
                f"measure, fewer than the {num_scales} scales",
                why="Sample j is taken from scale number j, so that the arm costs as much as "
                "every other arm",
                fix=f"Set num_samples: {num_scales} or more, twice as many with strata, or name "
                "fewer scales",
            )


def over_scales(rows: Sequence[Row], arms: Sequence[Arm]) -> list[Row]:
    """Returns the rows of the arms that answer at several scales at once.

    Args:
        rows: Rows of all arms.
        arms: Arms of the evaluation; those of one result at several scales are joined.
    """
    scales: dict[str, list[str]] = {}
    for arm in arms:
        if arm.result and arm.is_plain:
            scales.setdefault(arm.result, []).append(arm.name)
    places = {
        name: (result, number, len(names))
        for result, names in scales.items()
        for number, name in enumerate(names)
        if len(names) > 1
    }
    found = []
    for row in rows:
        result, number, num_scales = places.get(row["arm"], ("", 0, 1))
        if result and row["sample"] % num_scales == number:
            found.append({**row, "arm": f"{result}, {ALL}"})
    return found
