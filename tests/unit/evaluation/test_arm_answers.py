"""The answers of arms in one flight are those of each arm's vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics
from steer_lightning.evaluation.ablation import TRAINED, EvalArm
from steer_lightning.evaluation.arm_answers import ArmAnswers, evaluate_arms
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import FormatReward, RewardSum, WeightedReward
from steer_lightning.rollout import DecodeEngine, GenerateEngine, RolloutEngine, Sampling
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.rollout.request import Request
from steer_lightning.steering import (
    AdaptiveVectors,
    LoRA,
    LowRankVectors,
    Steering,
    SteeringVectors,
)
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.types import Prompt, Rollouts
from tests.unit.sweep.helpers import share

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"])
SAMPLING = Sampling(group_size=2, max_new_tokens=10)
ASKED: dict[str, Any] = {"seed": 3, "step": 5}
ARMS = [
    EvalArm(name=TRAINED),
    EvalArm(name="base", scale=0),
    EvalArm(name="double", scale=2),
    EvalArm(name="back", scale=-0.5, left_out=frozenset({2})),
    EvalArm(name="without_layer_1", left_out=frozenset({1})),
]


def requests(arms: Sequence[EvalArm] = ARMS) -> list[Request]:
    return [Request(prompts=PROMPTS, sampling=SAMPLING, **ASKED) for _ in arms]


KINDS = {
    "vectors": lambda: SteeringVectors(scale="none"),
    "a site": lambda: SteeringVectors(layers=[1, 2], scale="none", site="mlp_output"),
    "some tokens": lambda: SteeringVectors(scale="none", tokens="prompt"),
    "low rank": lambda: LowRankVectors(rank=2, scale="none"),
    "gates": lambda: AdaptiveVectors(scale="none", tokens="completion"),
}


@cache
def alone(kind: str) -> dict[str, Rollouts]:
    """The answers of plain evaluations, with vectors that are what each arm makes of them."""
    (policy,) = share("qwen2", [KINDS[kind]()], size=0.4)
    steering: Any = policy.steering
    plain, engine, found = steering.plain, DecodeEngine(), {}
    engine.setup(policy)
    for arm in ARMS:

        def changed(row: int, scale: float = 1.0, arm: EvalArm = arm) -> torch.Tensor:
            factor = 0.0 if steering.layers[row] in arm.left_out else arm.scale
            vector: torch.Tensor = factor * plain(row, scale)
            return vector

        steering.plain = changed
        found[arm.name] = engine.generate(PROMPTS, SAMPLING, **ASKED)
    return found


@pytest.mark.parametrize(
    ("kind", "tokens_in_flight"), [*((kind, 10_000) for kind in KINDS), ("gates", 150)]
)
def test_one_flight_answers_as_each_arm_alone(kind: str, tokens_in_flight: int) -> None:
    (policy,) = share("qwen2", [KINDS[kind]()], size=0.4)
    before = {name: x.clone() for name, x in policy.steering.state_dict().items()}
    engine = DecodeEngine(tokens_in_flight)
    engine.setup(policy)
    answers = ArmAnswers(policy, engine, ARMS)
    hooks = [len(module._forward_hooks) for module in policy.model.modules()]
    found = answers.answer(requests())
    assert answers.why_not_together() is None
    sums = set()
    for arm, rollouts in zip(ARMS, found, strict=True):
        assert isinstance(rollouts, Rollouts)
        sums.add(round(float(rollouts.logprobs.sum()), 2))
        other = alone(kind)[arm.name]
        assert rollouts.texts == other.texts, arm.name
        assert torch.equal(rollouts.completion_ids, other.completion_ids)
        torch.testing.assert_close(rollouts.logprobs, other.logprobs, rtol=0, atol=2e-5)
    assert len(sums) == len(ARMS), "the arms differ"
    assert [len(module._forward_hooks) for module in policy.model.modules()] == hooks
    assert not policy.attachment.is_paused
    assert policy.attachment.scale == 1
    for name, tensor in policy.steering.state_dict().items():
        assert torch.equal(tensor, before[name])
    after = engine.generate(PROMPTS, SAMPLING, **ASKED)
    assert after.texts == found[0].texts  # type: ignore[union-attr]


def test_zeroed_rows_and_the_base() -> None:
    """With real numbers: a layer left out is a row of zeros, and scale 0 is the base."""
    policies = share("llama", [SteeringVectors(scale="none") for _ in range(3)], size=0.4)
    numbers = policies[0].steering.vectors.detach()  # type: ignore[union-attr]
    for k, rows in enumerate([numbers, 0 * numbers, numbers * torch.tensor([[1.0], [0], [1]])]):
        policies[k].steering.set_vectors(rows)  # type: ignore[operator]
        policies[k].attachment.is_paused = k > 0
    engines = [DecodeEngine() for _ in policies]
    engines[0].setup(policies[0])
    answers = ArmAnswers(policies[0], engines[0], [ARMS[0], ARMS[1], ARMS[4]])
    found = answers.answer(requests(ARMS[:3]))
    for k, (policy, engine) in enumerate(zip(policies, engines, strict=True)):
        for other in policies:
            other.attachment.is_paused = other is not policy
        engine.setup(policy)
        plain = engine.generate(PROMPTS, SAMPLING, **ASKED)
        assert torch.equal(found[k].completion_ids, plain.completion_ids)  # type: ignore[union-attr]


class Foreign:
    """An engine of somebody else, which keeps a copy of the vectors."""

    def __init__(self) -> None:
        self.engine = GenerateEngine()

    def setup(self, policy: Policy) -> None:
        self.policy = policy
        self.engine.setup(policy)

    def sync(self, steering: Steering) -> None: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, **asked: Any) -> Rollouts:
        attachment: Any = self.policy.attachment
        told = attachment.scale, attachment.left_out
        attachment.scale, attachment.left_out = 1.0, frozenset()
        try:
            return self.engine.generate(prompts, sampling, **asked)
        finally:
            attachment.scale, attachment.left_out = told


def fallen_back(policy: Policy) -> RolloutEngine:
    engine = DecodeEngine()
    engine.setup(policy)
    engine.fall_back(policy, "made up")
    return engine


OTHER_WAYS = {
    "GenerateEngine, not DecodeEngine": lambda policy: GenerateEngine(),
    "model.exact is true": lambda policy: ExactEngine(DecodeEngine()),
    "GenerateEngine has taken the place of DecodeEngine": fallen_back,
}


@pytest.mark.parametrize("reason", OTHER_WAYS)
def test_one_after_another_says_the_same_and_why(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (policy,) = share("qwen2", [KINDS["vectors"]()], size=0.4)
    engine = OTHER_WAYS[reason](policy)
    if not isinstance(engine, DecodeEngine):
        engine.setup(policy)
    answers = ArmAnswers(policy, engine, ARMS)
    found = answers.answer(requests())
    again = answers.answer(requests())
    assert caplog.text.count("one after another") == 1
    assert reason in caplog.text
    for arm, one, two in zip(ARMS, found, again, strict=True):
        assert isinstance(one, Rollouts)
        assert isinstance(two, Rollouts)
        assert one.texts == two.texts == alone("vectors")[arm.name].texts, arm.name
    assert policy.attachment.scale == 1
    assert policy.attachment.left_out == frozenset()  # type: ignore[attr-defined]


def test_other_kinds_can_be_scaled(caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_policy("qwen2", LoRA(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.steering.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    engine = DecodeEngine()
    engine.setup(policy)
    found = ArmAnswers(policy, engine, ARMS[:3]).answer(requests(ARMS[:3]))
    assert "LoRA, which can't act by row" in caplog.text
    for arm, rollouts in zip(ARMS, found, strict=False):
        with policy.at_scale(arm.scale):
            plain = engine.generate(PROMPTS, SAMPLING, **ASKED)
        assert rollouts.texts == plain.texts  # type: ignore[union-attr]


def test_a_wrong_flight_and_a_foreign_engine_are_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (policy,) = share("qwen2", [KINDS["vectors"]()], size=0.4)
    engine = DecodeEngine()
    engine.setup(policy)
    answers = ArmAnswers(policy, engine, ARMS)
    monkeypatch.setattr(
        "steer_lightning.steering.row_vectors.RowVectors._table",
        lambda self, number: torch.zeros(len(ARMS), 32),
    )
    found = answers.answer(requests())
    assert "the answers of arm trained are wrong: log-probabilities differ" in caplog.text
    assert found[2].texts == alone("vectors")["double"].texts  # type: ignore[union-attr]
    foreign = Foreign()
    foreign.setup(policy)
    with pytest.raises(ConfigError, match=r"arm base are wrong.*Foreign, does not follow"):
        ArmAnswers(policy, foreign, ARMS).answer(requests())


def test_a_flight_that_does_not_fit_into_memory(caplog: pytest.LogCaptureFixture) -> None:
    (policy,) = share("qwen2", [KINDS["vectors"]()], size=0.4)
    engine = DecodeEngine()
    engine.setup(policy)
    answers = ArmAnswers(policy, engine, ARMS)

    def refuse(*args: Any) -> None:
        raise ConfigError("model.engine.max_tokens_in_flight", 1, rule="is too small")

    engine.in_memory = refuse  # type: ignore[method-assign]
    engine.generate = GenerateEngine.generate.__get__(made := GenerateEngine())  # type: ignore[method-assign]
    made.setup(policy)
    found = answers.answer(requests())
    assert "is too small" in caplog.text
    assert found[4].texts == alone("vectors")["without_layer_1"].texts  # type: ignore[union-attr]


def test_an_arm_that_is_not_finite_is_left_out() -> None:
    (policy,) = share("qwen2", [KINDS["vectors"]()], size=0.4)
    engine = DecodeEngine()
    engine.setup(policy)
    arms = [ARMS[0], EvalArm(name="huge", scale=float("inf")), ARMS[1]]
    verifier = RewardSum([WeightedReward(reward=FormatReward(pattern="[a-m]"))])
    for made in (engine, GenerateEngine()):
        made.setup(policy)
        metrics = [BenchmarkMetrics() for _ in arms]
        answers = ArmAnswers(policy, made, arms)
        failed = evaluate_arms(metrics, answers, PROMPTS, SAMPLING, verifier, 0)
        assert failed == {"huge": "its logits are not finite"}
        assert 0 <= metrics[2].result()["accuracy"] <= 1
        assert len(metrics[1].by_problem()) == 0
        assert evaluate_arms(metrics, answers, [], SAMPLING, verifier, 0) == {}
    with pytest.raises(FloatingPointError):
        evaluate_arms(
            metrics[:1], ArmAnswers(policy, engine, arms[1:2]), PROMPTS, SAMPLING, verifier, 0
        )
