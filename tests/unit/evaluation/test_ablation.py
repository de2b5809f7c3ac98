"""Settings of arms, and the mistakes in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.ablation import (
    ArmSettings,
    EvalArm,
    acting_as,
    arms_of,
    check_arms,
)
from steer_lightning.steering import LoRA, LowRankVectors, SteeringVectors
from steer_lightning.steering.row_vectors import steers_rows

VECTORS = SteeringVectors([1, 2, 4]).shaped(width=8, num_layers=6)


def arm(**settings: Any) -> ArmSettings:
    return ArmSettings(**settings)


@pytest.mark.parametrize(
    ("arms", "leave_out", "message"),
    [
        ({}, None, r"BenchmarkEval.arms = \{\}: must name at least one arm"),
        ({"a/b": arm(scale=0)}, None, "arms.a/b = 'a/b': is no name for an arm"),
        ({"": arm(scale=0)}, None, "is no name for an arm"),
        ({2: arm(scale=2)}, None, "arms.2 = 2: is no name for an arm: a name is a text"),
        ({"-a": arm(scale=0)}, None, "is no name for an arm"),
        ({"\u00e4": arm(scale=0)}, None, "is no name for an arm"),
        ({"trained": arm(scale=0)}, None, "is not 'trained'"),
        ({"a": arm(scale=float("nan"))}, None, r"arms.a.scale = nan: must be finite"),
        ({"a": arm(scale=float("-inf"))}, None, r"arms.a.scale = -inf: must be finite"),
        ({"a": arm(only_layers=[1], without_layers=[2])}, None, "sets both"),
        ({"a": arm(only_layers=[])}, None, r"arms.a.only_layers = \[\]: must name at least"),
        ({"a": arm(without_layers=[1, 1])}, None, r"each only once"),
        (None, [], r"leave_out_layers = \[\]: must name at least"),
    ],
)
def test_mistakes_that_need_no_model(arms: Any, leave_out: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_arms(arms, leave_out)


def test_settings_that_are_right() -> None:
    arms = {"2x": arm(scale=2), "x0.5_a-b": arm(scale=-0.5), "_": arm(only_layers=[1])}
    for leave_out in ("each", [1], None):
        check_arms(arms, leave_out)  # type: ignore[arg-type]
        check_arms(None, leave_out)  # type: ignore[arg-type]
    assert [x.name for x in arms_of(arms, None, VECTORS)] == ["trained", *arms]


def test_arms_of_a_run() -> None:
    settings = {
        "base": arm(scale=0),
        "rest": arm(without_layers=[1, 4]),
        "one": arm(scale=2, only_layers=[1]),
    }
    assert arms_of(settings, "each", VECTORS) == [
        EvalArm(name="trained"),
        EvalArm(name="base", scale=0),
        EvalArm(name="rest", left_out=frozenset({1, 4})),
        EvalArm(name="one", scale=2, left_out=frozenset({2, 4})),
        *(EvalArm(name=f"without_layer_{k}", left_out=frozenset({k})) for k in (1, 2, 4)),
    ]
    assert [x.name for x in arms_of(None, [4, 1], VECTORS)[1:]] == [
        "without_layer_4",
        "without_layer_1",
    ]


@pytest.mark.parametrize(
    ("arms", "leave_out", "message"),
    [
        ({"a": arm(without_layers=[3])}, None, r"a.without_layers = \[3\]: are not trained layers"),
        ({"a": arm(only_layers=[1, 7])}, None, r"\[7\].*trains layers \[1, 2, 4\] of .* 6"),
        (None, [-1], r"leave_out_layers = \[-1\]: are not trained layers"),
        ({"a": arm(without_layers=[1, 2, 4])}, None, "leaves no trained layer.*scale: 0"),
        ({"a": arm()}, None, "a'?: is the same as the trained vectors"),
        ({"a": arm(only_layers=[1, 2, 4])}, None, "is the same as the trained vectors"),
        ({"a": arm(scale=2), "b": arm(scale=2.0)}, None, "arms.b.*is the same as the arm a"),
        ({"a": arm(scale=0), "b": arm(scale=-0.0, only_layers=[1])}, None, "same as the arm a"),
        ({"a": arm(only_layers=[1, 2])}, [4], "without_layer_4'?: is the same as the arm a"),
        ({"without_layer_1": arm(scale=2)}, "each", "adds an arm of this name"),
    ],
)
def test_mistakes_that_need_the_layers(arms: Any, leave_out: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arms_of(arms, leave_out, VECTORS)


def test_a_single_layer_can_not_be_left_out() -> None:
    one = SteeringVectors([3]).shaped(width=8, num_layers=6)
    with pytest.raises(ConfigError, match="leave_out_layers = 'each': leaves no trained layer"):
        arms_of(None, "each", one)


def test_other_kinds_have_scales_only() -> None:
    assert [x.scale for x in arms_of({"base": arm(scale=0)}, None, LoRA())] == [1, 0]
    for arms, leave_out in (({"a": arm(only_layers=[1])}, None), (None, "each"), (None, [1])):
        with pytest.raises(ConfigError, match="steering is LoRA, of which no layer can be left"):
            arms_of(arms, leave_out, LoRA())  # type: ignore[arg-type]

    class Own(SteeringVectors):
        def attach(self, model: Any, scale: float = 1.0) -> Any:
            return None

    assert steers_rows(LowRankVectors())
    assert not steers_rows(Own())


def test_scales_multiply_and_come_back() -> None:
    attachment: Any = SimpleNamespace(scale=0.5)
    with acting_as(attachment, EvalArm(name="a", scale=3)):
        assert attachment.scale == 1.5
    assert attachment.scale == 0.5
