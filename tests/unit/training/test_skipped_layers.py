"""Layers below the first steered one run once for all reads of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from steer_lightning.losses import Clip, KLToBase, PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import GenerateEngine, Sampling
from steer_lightning.steering import (
    READ,
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    LoReFT,
    LowRankVectors,
    ProjectedVectors,
    Steering,
    SteeringVectors,
    TinyLoRA,
    VectorFit,
    VeRA,
)
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import can_skip_layers
from steer_lightning.training.skipped_layers import KeptStream, SkippedLayers
from steer_lightning.training.update import OptimizerSteps, Updater
from tests.unit.training.helpers import policy_with_vectors

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])
STOPS = list(range(40, 80))  # rows of unequal length


UPPER: dict[str, Callable[[], Steering]] = {
    "vectors": partial(SteeringVectors, layers=[2]),
    "gated": partial(AdaptiveVectors, layers=[2]),
    "mixtures": partial(LowRankVectors, layers=[2]),
    "fixed directions": partial(LowRankVectors, layers=[2], directions="random"),
    "lora": partial(LoRA, layers=[2], target_modules=["q_proj", "down_proj"]),
    "projected": partial(ProjectedVectors, layers=[2]),
    "tiny lora": partial(TinyLoRA, layers=[2]),
    "vera": partial(VeRA, layers=[2], rank=8),
    "edits": partial(LoReFT, layers=[2]),
    "side network": partial(READ, layers=[2]),
}
"""Kinds that train the uppermost of three layers alone."""


def policy_with(make: Callable[[], Steering]) -> Policy:
    """A policy with something learned that acts on it."""
    torch.manual_seed(1)  # LoRA draws, too
    policy = tiny_policy("llama", make())
    for parameter in policy.steering.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return policy


@pytest.mark.parametrize("kind", UPPER)
def test_kinds_that_train_upper_layers_alone_tell_the_first_one(kind: str) -> None:
    policy = policy_with(UPPER[kind])
    assert policy.steering.first_layer == 2
    assert can_skip_layers(policy)


@pytest.mark.parametrize(
    ("steering", "expected"),
    [
        (SteeringVectors(), 0),
        (LowRankVectors(layers=[1, 2], rank=2), 1),
        (LoRA(), 0),
        (LoRA(layers="1-2", target_modules=["v_proj"]), 1),
        (BitFit(), 0),
        (VectorFit(), 0),
        (FullFinetune(), 0),
    ],
)
def test_the_first_layer_of_other_settings(steering: Steering, expected: int) -> None:
    policy = tiny_policy("qwen2", steering)
    assert policy.steering.first_layer == expected
    assert can_skip_layers(policy) == (expected > 0), "nothing lies below the first layer"


def count_runs(policy: Policy) -> list[int]:
    """Counts how often each layer really runs, by its MLP."""
    runs = [0] * len(policy.layers)

    def count(k: int) -> None:
        runs[k] += 1

    for k, layer in enumerate(policy.layers):
        layer.mlp.register_forward_hook(lambda *_, k=k: count(k))
    return runs


def two_passes(
    kept_tokens: int, checkpointing: bool = False, make: Callable[[], Steering] = UPPER["vectors"]
) -> tuple[torch.Tensor, list[int]]:
    """PPO with the KL to the base: 2 passes over 2 mini-batches of some micro-batches each."""
    policy = policy_with(make)
    engine = GenerateEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=4, max_new_tokens=14, eos_token_ids=STOPS)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    torch.manual_seed(2)
    batch = Batch.alone(rollouts, torch.randn(4, 4))
    named = dict(policy.steering.named_parameters())
    named.pop("recurrent", None)  # of READ, whose only layer has no state before it
    trained = [parameter for parameter in named.values() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    runs = count_runs(policy)
    gradient = BatchGradient(
        policy=policy,
        loss=PolicyGradient(objective=Clip(), terms=[KLToBase(0.1)]),
        temperature=1.0,
        max_tokens=60,
        kept_tokens=kept_tokens,
        activation_checkpointing=checkpointing,
    )
    updater = Updater(
        lambda parameters: torch.zeros(()),
        optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        steps=OptimizerSteps(num_passes=2, num_mini_batches=2),
    )
    updater.update(gradient, batch, step=0)
    assert not any(map(torch.equal, trained, before)), "each of them has been moved"
    return torch.cat([parameter.detach().flatten() for parameter in trained]), runs


@pytest.mark.parametrize(
    ("kind", "checkpointing"), [*((kind, False) for kind in UPPER), ("vectors", True)]
)
def test_what_is_trained_is_the_same_bit_for_bit_and_layers_below_run_once(
    kind: str, checkpointing: bool
) -> None:
    plain, every = two_passes(0, checkpointing, UPPER[kind])
    kept, fewer = two_passes(10_000, checkpointing, UPPER[kind])
    assert torch.equal(kept, plain)
    assert every[0] == every[1]
    assert fewer[0] == fewer[1]
    assert fewer[2] == every[2]
    # the first mini-batch is read by the base and in 2 passes, the second one is measured, too
    assert every[0] / fewer[0] == pytest.approx((3 + 4) / 2, rel=0.2)


def test_what_has_no_room_is_read_from_the_bottom() -> None:
    plain, every = two_passes(0)
    some, fewer = two_passes(50)
    assert torch.equal(some, plain)
    assert two_passes(10_000)[1][0] < fewer[0] < every[0]


def test_room_is_counted_in_tokens() -> None:
    policy = policy_with_vectors()
    streams = SkippedLayers(policy.layers, 2, max_tokens=10)
    found = []
    for length in (6, 5, 4):  # the second one has no room
        kept = KeptStream(streams, num_passes=2)
        with kept.one_pass():
            policy.model(input_ids=torch.ones(1, length, dtype=torch.long))
        found.append(kept.stream is not None)
    assert found == [True, False, True]
    last = KeptStream(SkippedLayers(policy.layers, 2, max_tokens=10), num_passes=1)
    with last.one_pass():
        policy.model(input_ids=torch.ones(1, 2, dtype=torch.long))
    assert last.stream is None, "nothing is kept of what is not read again"
