"""Rows of several experiments in one flight and one sequence are those of each experiment alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch

from steer_lightning import ConfigError, attach
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.model.precision import checked_in_float32
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.joint_completions import JointCompletions
from steer_lightning.rollout.kv_cache import Plan, plan_flight
from steer_lightning.rollout.request import Request
from steer_lightning.steering import AdaptiveVectors, LowRankVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowSteering
from steer_lightning.sweep.shared_base import SharedBase, copy_of
from steer_lightning.testing import make_prompts, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.joint_gradient import JointGradient, Share
from tests.unit.sweep.helpers import share

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"])
TWO = ["z9", "two", "b", "c"]
SAMPLINGS = [
    Sampling(group_size=3, max_new_tokens=12),
    Sampling(group_size=2, max_new_tokens=9, temperature=0.7),
    Sampling(group_size=4, max_new_tokens=12, top_k=5),
    Sampling(group_size=2, max_new_tokens=12, eos_token_ids=[70, 71, 72, 73]),
]


def mixed() -> list[SteeringVectors]:
    return [
        SteeringVectors(scale="none"),
        SteeringVectors(layers=[1], scale="none", site="mlp_output"),
        LowRankVectors(rank=2, scale="none"),
        AdaptiveVectors(scale="none", tokens="completion"),
    ]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("tokens_in_flight", [10_000, 150])
def test_a_joint_rollout_is_that_of_each_alone(architecture: str, tokens_in_flight: int) -> None:
    policies = share(architecture, mixed())
    base = SharedBase(policies)
    engines = [DecodeEngine(tokens_in_flight) for _ in policies]
    requests, alone = [], []
    for k, (policy, engine) in enumerate(zip(policies, engines, strict=True)):
        prompts = PROMPTS[k % 2 :]
        request = Request(prompts=prompts, sampling=SAMPLINGS[k], seed=k, step=k)
        requests.append(request)
        with base.serving(k):
            engine.setup(policy)
            alone.append(engine.generate(prompts, SAMPLINGS[k], seed=k, step=k))
        assert engine.fallback is None
    completions = JointCompletions(policies, requests)
    with base.serving_all() as joint:
        engines[0].fly(joint, completions, plan_flight(requests, tokens_in_flight))
    for found, expected in zip(completions.outcomes(), alone, strict=True):
        assert not isinstance(found, Exception)
        assert torch.equal(found.completion_ids, expected.completion_ids)
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
        assert found.texts == expected.texts
    ids = [tuple(map(tuple, rollouts.completion_ids.tolist())) for rollouts in alone]
    assert len(set(ids)) == 4, "the vectors do something"


def inner() -> list[SteeringVectors]:
    return [
        SteeringVectors(scale="none", site="mlp_output", tokens="completion"),
        SteeringVectors(scale="none", site="attention_output", tokens="prompt"),
    ]


@pytest.mark.parametrize(
    ("architecture", "max_tokens", "make", "checkpointed"),
    [
        ("llama", 10_000, mixed, False),
        ("llama", 100, mixed, False),
        ("gemma3", 10_000, mixed, False),
        ("gemma3", 100, mixed, True),
        ("llama", 10_000, inner, True),  # sites that the backward pass reads again
    ],
)
def test_a_joint_gradient_is_that_of_each_alone(
    architecture: str,
    max_tokens: int,
    make: Callable[[], list[SteeringVectors]],
    checkpointed: bool,
) -> None:
    policies = share(architecture, make())
    base = SharedBase(policies)
    engine = DecodeEngine()
    shares, alone = [], []
    for k, policy in enumerate(policies):
        gradient = BatchGradient(
            policy=policy,
            loss=PolicyGradient(),
            temperature=SAMPLINGS[k].temperature,
            max_tokens=max_tokens,
            activation_checkpointing=checkpointed,
        )
        with base.serving(k):
            engine.setup(policy)
            rollouts = engine.generate(PROMPTS, replace(SAMPLINGS[k], top_k=0), seed=k, step=0)
            generator = torch.Generator().manual_seed(k)
            advantages = torch.randn(5, SAMPLINGS[k].group_size, generator=generator)
            batch = Batch.alone(rollouts, advantages)
            totals = gradient.accumulate(gradient.plan(batch))
        alone.append(([p.grad.clone() for p in policy.steering.parameters()], totals.loss))
        shares.append(Share(owner=k, gradient=gradient, mini_batch=gradient.plan(batch)))
    assert all(share.can_join for share in shares)
    with base.serving_all() as joint:
        JointGradient(joint).accumulate(shares)
    for share_, policy, (expected, loss) in zip(shares, policies, alone, strict=True):
        assert share_.error is None
        assert share_.totals.loss == pytest.approx(loss, abs=1e-5)
        for parameter, gradient in zip(policy.steering.parameters(), expected, strict=True):
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "diverged",
    [
        SteeringVectors(scale="none"),
        SteeringVectors(scale="none", tokens="completion"),
        AdaptiveVectors(scale="none"),
    ],
    ids=["plain", "some tokens", "gated"],
)
def test_an_experiment_that_fails_ends_alone(diverged: SteeringVectors) -> None:
    plain = [SteeringVectors(scale="none") for _ in range(2)]
    policies = share("llama", [plain[0], diverged, plain[1]])
    base, sampling = SharedBase(policies), SAMPLINGS[0]
    engine = DecodeEngine(100)  # some rows wait
    with base.serving(2):
        engine.setup(policies[2])
        expected = engine.generate(PROMPTS, sampling, seed=0, step=0)

    def refuse(row: int, completion: object) -> None:
        raise KeyError("a reward")

    requests = [
        Request(prompts=PROMPTS, sampling=sampling, seed=0, step=0, on_completion=refuse),
        Request(prompts=PROMPTS, sampling=sampling, seed=0, step=0),
        Request(prompts=PROMPTS, sampling=sampling, seed=0, step=0),
    ]
    policies[1].steering.set_vectors(torch.full((3, 32), float("nan")))
    completions = JointCompletions(policies, requests)
    with base.serving_all() as joint:
        engine.fly(joint, completions, plan_flight(requests, 100))
    one, two, three = completions.outcomes()
    assert isinstance(one, KeyError)
    assert isinstance(two, FloatingPointError)
    assert torch.equal(three.completion_ids, expected.completion_ids)


@pytest.mark.parametrize("tokens", ["all", "completion"])
@pytest.mark.parametrize("max_prompts", [2, 3])
def test_who_gets_the_slots_of_a_failed_experiment_notices_nothing(
    tokens: Literal["all", "completion"], max_prompts: int
) -> None:
    """A mask does not hide NaN, neither in prompts nor in tails, nor where a row has been moved."""
    steerings = [
        SteeringVectors(scale="none"),
        SteeringVectors(scale="none", tokens=tokens),
        SteeringVectors(scale="none"),
    ]
    policies = share("llama", steerings)
    texts = ["the longest prompt, to whose width all others are padded"], ["a long prompt"], TWO
    sampling = Sampling(group_size=1, max_new_tokens=40)
    of_each = [sampling, replace(sampling, max_new_tokens=3), sampling]
    requests = [
        Request(prompts=make_prompts(text), sampling=of_each[k], seed=0, step=k)
        for k, text in enumerate(texts)
    ]
    base, engine, alone = SharedBase(policies), DecodeEngine(), {}
    for k in (0, 2):
        with base.serving(k):
            engine.setup(policies[k])
            alone[k] = engine.generate(requests[k].prompts, sampling, seed=0, step=k)
    policies[1].steering.set_vectors(torch.full((3, 32), float("nan")))
    completions = JointCompletions(policies, requests)
    plan = Plan(max_rows=max_prompts, max_prompts=max_prompts, tokens=0, least=0)
    with base.serving_all() as joint:
        engine.fly(joint, completions, plan)
    found = completions.outcomes()
    assert isinstance(found[1], FloatingPointError)
    for k, expected in alone.items():
        assert torch.equal(found[k].completion_ids, expected.completion_ids)


def test_a_copy_has_the_weights_and_not_their_precision_for_a_while() -> None:
    first = tiny_policy("llama", SteeringVectors(scale="none"))
    model = first.model.to(torch.bfloat16)
    other = Policy("tiny", steering=SteeringVectors(scale="none"))
    other.tokenizer = first.tokenizer
    other.adopt(copy_of(model))
    one, two = dict(model.named_parameters()), dict(other.model.named_parameters())
    assert [x.data_ptr() for x in one.values()] == [x.data_ptr() for x in two.values()]
    seen = []

    def check() -> None:
        seen.append([{x.dtype for x in named.values()} for named in (two, one)])

    checked_in_float32(other, check)
    assert [{torch.float32}, {torch.bfloat16}] in seen
    assert all(of_another_thread == {torch.bfloat16} for _, of_another_thread in seen)
    assert {x.dtype for x in two.values()} == {torch.bfloat16}


def test_rows_are_steered_in_the_layers_of_the_path_that_is_given() -> None:
    model = tiny_model()
    parts = [SteeringVectors(layers=[0], scale="none").shaped(32, 3) for _ in range(2)]
    parts[1].set_vectors(torch.ones(1, 32))
    ids = torch.tensor([[1, 10], [1, 10]])
    base = model(ids).logits
    with attach(model, RowSteering(parts), layers_path="model.layers") as attachment:
        assert [part.layers_path for part in parts] == ["model.layers"] * 2
        with attachment.with_owners(torch.tensor([0, 1])):
            found = model(ids).logits
    assert torch.equal(found[0], base[0])
    assert not torch.allclose(found[1], base[1])
    with pytest.raises(ConfigError, match=r"model\.steering\.layers_path = 'nowhere'"):
        attach(model, RowSteering(parts), layers_path="nowhere")
