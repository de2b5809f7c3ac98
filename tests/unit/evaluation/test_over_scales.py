"""The arm whose samples are taken from all scales in turn."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.arms import Arm
from steer_lightning.evaluation.budget import Budget
from steer_lightning.evaluation.over_scales import check_over_scales, check_samples, over_scales
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.rewards import FormatReward, MathReward
from steer_lightning.steering import SteeringVectors

ARMS = [
    Arm(name=name, steering=SteeringVectors(), result=result)
    for name, result in (
        *(("base", ""), ("a x 0.5", "a"), ("a", "a"), ("a x 2", "a")),
        *(("a without layer 1", ""), ("b", "b")),
    )
]


def test_samples_take_turns() -> None:
    """Three scales, five samples: 0, 3 of the first, 1, 4 of the second, 2 of the third."""
    rows = [
        {"arm": arm.name, "problem": problem, "sample": sample, "from": arm.name}
        for arm in ARMS
        for problem in (7, 8)
        for sample in range(5)
    ]
    found = over_scales(rows, ARMS)
    assert {row["arm"] for row in found} == {"a, all scales"}
    for problem in (7, 8):
        of_it = sorted((x["sample"], x["from"]) for x in found if x["problem"] == problem)
        scales = ["a x 0.5", "a", "a x 2", "a x 0.5", "a"]
        assert of_it == list(enumerate(scales))


def test_arms_with_a_budget_or_a_refinement_have_no_part() -> None:
    vectors = SteeringVectors()
    forced = Arm(name="b, short", steering=vectors, result="b", budget=Budget(num_waits=1))
    refined = Arm(name="b, mine", steering=vectors, result="b", refinement=Refinement())
    rows = [{"arm": name, "problem": 0, "sample": 0} for name in ("b", "b, short", "b, mine")]
    assert over_scales(rows, [*ARMS[-1:], forced, refined]) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"results": []}, "contradicts vectors: it is null"),
        ({"scales": [1.0]}, r"contradicts scales: it is \[1.0\], which are fewer than two"),
        (
            {"verifier": FormatReward("a")},
            "contradicts verifier: it is a FormatReward",
        ),
    ],
)
def test_nothing_to_vote_on(settings: dict[str, Any], told: str) -> None:
    given = {"scales": [0.5, 1.0], "results": ["a"], "verifier": MathReward()}
    check_over_scales(True, **given)
    check_over_scales(False, **{**given, **settings})
    with pytest.raises(ConfigError, match=f"vote_over_scales = True: {told}"):
        check_over_scales(True, **{**given, **settings})


def test_every_scale_needs_a_sample() -> None:
    check_samples({"sums": 3, "aime": 32}, 3)
    with pytest.raises(ConfigError, match=r"of sums has 2 samples to measure, fewer than the 3"):
        check_samples({"aime": 32, "sums": 2}, 3)
