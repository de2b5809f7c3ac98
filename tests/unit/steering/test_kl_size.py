"""The size of vectors that changes the next token by a tenth of a nat."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.kl_size import (
    KL,
    LARGEST,
    logits_of,
    mean_kl,
    measure_kl_size,
    vectors_added,
)
from steer_lightning.testing import tiny_policy

PROMPTS = [[1, 7, 8, 9, 30, 31, 2], [1, 5, 6], [1, 40, 41, 42, 43]]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts, right-padded, and their mask."""
    ids = torch.tensor([[*prompt, *[0] * (7 - len(prompt))] for prompt in PROMPTS])
    return ids, torch.arange(7) < torch.tensor([[len(prompt)] for prompt in PROMPTS])


def kl_of(policy: Policy, vectors: torch.Tensor) -> float:
    """Mean KL over all tokens of the prompts, read one at a time."""
    gaps = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            before = policy.model(input_ids=ids).logits[0].log_softmax(-1)
            with vectors_added(list(policy.layers), vectors):
                after = policy.model(input_ids=ids).logits[0].log_softmax(-1)
        gaps.append((before.exp() * (before - after)).sum(-1))
    return float(torch.cat(gaps).mean())


def measured(policy: Policy, sizes: torch.Tensor) -> float:
    ids, mask = batch()
    with policy.at_scale(0.0):
        return measure_kl_size(policy.model, list(policy.layers), sizes, 32, [(ids, mask.long())])


def sure_policy() -> Policy:
    """An untrained model that nevertheless prefers some tokens."""
    policy = tiny_policy("llama")
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(20)
    return policy


def test_vectors_of_the_size_change_the_next_token_by_a_tenth_of_a_nat() -> None:
    policy = sure_policy()
    sizes = torch.tensor([1.0, 2.0, 0.5])
    factor = measured(policy, sizes)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(20):
        signs = torch.randint(2, (3, 32), generator=generator) * 2 - 1
        found.append(kl_of(policy, signs * sizes[:, None] * factor))
    mean = float(torch.tensor(found).mean())
    assert 0.7 * KL < mean < 1.4 * KL, found


def test_the_size_is_that_of_the_model_and_not_of_the_stream() -> None:
    policy = sure_policy()
    factor = measured(policy, torch.ones(3))
    assert measured(policy, torch.full((3,), 4.0)) == pytest.approx(factor / 4, rel=0.1)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(3)  # a model that is surer changes sooner
    assert measured(policy, torch.ones(3)) < 0.7 * factor


def test_vectors_without_effect_have_the_largest_size() -> None:
    policy = tiny_policy("llama")
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
    assert measured(policy, torch.ones(3)) == pytest.approx(LARGEST)


def test_only_chosen_logits_are_computed() -> None:
    policy = tiny_policy("gemma3")
    ids, _ = batch()
    with torch.no_grad():
        all_logits = policy.model(input_ids=ids).logits.flatten(0, 1)
        with logits_of(policy.model, torch.tensor([0, 9, 20])):
            some = policy.model(input_ids=ids).logits
        again = policy.model(input_ids=ids).logits.flatten(0, 1)
    assert some.shape[:2] == (1, 3)
    torch.testing.assert_close(some[0], all_logits[[0, 9, 20]])
    assert torch.equal(again, all_logits)


def test_vectors_are_trained_in_these_units() -> None:
    kl, rms = SteeringVectors(scale="kl"), SteeringVectors(scale="rms")
    for vectors in (kl, rms):
        tiny_policy("llama", vectors).measure_units(PROMPTS)
    assert torch.equal(kl.stream, rms.stream)
    assert torch.equal(rms.stream, rms.unit)
    ratio = kl.unit / kl.stream
    torch.testing.assert_close(ratio, ratio[:1].expand(3))
    kl.set_vectors(2 * kl.unit[:, None] * torch.ones(3, 32))
    assert kl.metrics()["size_in_stream"] == pytest.approx(2 * float(ratio[0]))
    assert "size_in_stream" not in SteeringVectors(scale="none").shaped(4, 1).metrics()


def test_a_checkpoint_without_the_stream_has_it_in_the_unit() -> None:
    policy = tiny_policy("llama", SteeringVectors(scale="rms"))
    policy.measure_units(PROMPTS)
    state = dict(policy.steering.state_dict())
    measured_size = state.pop("stream")
    fresh = SteeringVectors().shaped(32, 3)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.stream, measured_size)


def test_a_kl_that_is_no_number_is_infinite_and_tokens_that_never_come_do_not_count() -> None:
    before = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]).log()
    after = torch.tensor([[0.25, 0.75, 0.0], [0.25, 0.75, 0.0]]).log()
    expected = (0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert mean_kl(before, after) == pytest.approx(expected)
    assert mean_kl(before, after * float("nan")) == math.inf
    with pytest.raises(ConfigError, match=r"model\.steering\.scale.*not finite numbers"):
        mean_kl(before * float("nan"), after)


def test_a_coarse_base_has_about_the_same_size() -> None:
    factors = []
    for dtype in (torch.float32, torch.bfloat16):
        policy = sure_policy()
        policy.model.to(dtype)
        factors.append(measured(policy, torch.ones(3)))
    assert factors[1] == pytest.approx(factors[0], rel=0.2)
