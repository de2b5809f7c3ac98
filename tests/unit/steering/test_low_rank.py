"""Mixtures of few directions, and vectors whose size depends on the token."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import (
    AdaptiveVectors,
    LowRankVectors,
    SiteVectors,
    SteeringVectors,
    find_layers,
)
from steer_lightning.testing import check_engine, make_prompts, save_tiny, tiny_model, tiny_policy
from steer_lightning.training.batch import Batch
from steer_lightning.training.forward import why_not_packed
from steer_lightning.training.gradient import BatchGradient

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])


def test_a_mixture_by_hand() -> None:
    vectors = LowRankVectors(rank=2).shaped(3, 4)
    assert vectors.num_trained == 4 * 2 + 2 * 3
    assert (vectors.vectors == 0).all()
    # profiles over 4 layers: constant, and half a cosine; their mean square is 1 / rank
    half = [math.cos(math.pi * (layer + 0.5) / 4) for layer in range(4)]
    expected = torch.tensor([[math.sqrt(0.5)] * 4, half]).T
    torch.testing.assert_close(vectors.scales.data, expected)
    torch.testing.assert_close(vectors.scales.data.pow(2).mean(0), torch.tensor([0.5, 0.5]))
    vectors.scales.data = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, -1]])
    vectors.directions.data = torch.tensor([[1.0, 2, 3], [10, 20, 30]])
    vectors.set_unit(torch.tensor([1.0, 1, 2, 1]))
    assert vectors.vectors.tolist() == [[1, 2, 3], [10, 20, 30], [22, 44, 66], [-8, -16, -24]]
    assert vectors.plain(2, 0.5).tolist() == [11, 22, 33]


def test_rank_1_is_one_shared_vector_with_a_scale_a_layer() -> None:
    vectors = LowRankVectors().shaped(8, 5)
    assert torch.equal(vectors.scales.data, torch.ones(5, 1))
    assert vectors.num_trained == 5 + 8
    vectors = LowRankVectors(layers=[2], directions="random").shaped(8, 5)
    assert vectors.num_trained == 1
    assert [name for name, _ in vectors.named_parameters()] == ["scales"]
    again = LowRankVectors(directions="random").shaped(8, 5)
    assert torch.equal(vectors.directions, again.directions)
    assert "directions" in vectors.state_dict(), "a checkpoint knows them, whatever draws them"


def test_a_start_is_the_nearest_mixture(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    shared = torch.randn(5, 1) @ torch.randn(1, 8)
    for rank, plain, exact in ((1, shared, True), (2, torch.randn(5, 8), False)):
        path = tmp_path / f"{rank}.safetensors"
        save_vectors(plain, path, base_model="b")
        vectors = LowRankVectors(rank=rank, init_from=str(path)).shaped(8, 5)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            vectors._start_from(str(path), "b")
        left, sizes, right = torch.linalg.svd(plain)
        nearest = left[:, :rank] @ torch.diag(sizes[:rank]) @ right[:rank]
        torch.testing.assert_close(vectors.vectors.detach(), nearest, atol=1e-5, rtol=1e-4)
        assert ("of the vectors' norm are kept" in caplog.text) != exact
    fixed = LowRankVectors(rank=3, directions="random").shaped(8, 5)
    mixture = torch.randn(5, 3) @ fixed.directions
    fixed.set_vectors(mixture)
    torch.testing.assert_close(fixed.vectors.detach(), mixture, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank = 0.*at least 1"),
        ({"rank": 4}, r"rank = 4.*at most 3.*steering\.layers = 'all' are 3 vectors of width 32"),
        ({"rank": 2, "layers": [1]}, r"rank = 2.*at most 1.*steering\.layers = \[1\]"),
    ],
)
def test_a_rank_without_use_is_refused_before_the_weights_are_read(
    tmp_path, settings, message
) -> None:
    folder = save_tiny(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=message):
        Policy(folder, steering=LowRankVectors(**settings)).load()


def test_the_gate_by_hand() -> None:
    vectors = AdaptiveVectors([1]).shaped(4, 3)
    assert vectors.num_trained == 8
    stream = torch.tensor([[[2.0, 0, 0, 0], [3, 3, 3, 3]]])  # root mean squares 1 and 3
    assert vectors.gate(0, stream).flatten().tolist() == [1.0, 1.0]
    vectors.gates.data[0, :4] = torch.tensor([1.0, 0, 0, 0])
    # 2 * 1 / sqrt(4) = 1 and 1 * 1 / sqrt(4) = 0.5
    expected = [2 / (1 + math.exp(-1)), 2 / (1 + math.exp(-0.5))]
    assert vectors.gate(0, stream).flatten().tolist() == pytest.approx(expected)


def test_an_adaptive_vector_is_added_as_the_formula_says(tmp_path) -> None:
    model, vectors = tiny_model(), AdaptiveVectors([1]).shaped(32, 3)
    base = model(IDS).logits
    vectors.gates.data.normal_()
    with attach(model, vectors):
        assert torch.equal(model(IDS).logits, base), "a zero vector, whatever its gate"
    vectors.set_vectors(torch.randn(1, 32))
    seen: list[torch.Tensor] = []
    layer = find_layers(model)[1]
    handle = layer.register_forward_hook(lambda m, x, y: seen.append(y.detach()))
    model(IDS)
    handle.remove()
    with attach(model, vectors):
        handle = layer.register_forward_hook(lambda m, x, y: seen.append(y.detach()))
        steered = model(IDS).logits
        handle.remove()
    plain, found = seen
    slope = (plain / plain.pow(2).mean(-1, keepdim=True).sqrt()) @ vectors.gates[0, :32]
    gate = 2 / (1 + torch.exp(-slope / math.sqrt(32)))
    expected = plain + gate[..., None] * vectors.vectors[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    path = tmp_path / "v.safetensors"
    vectors.save(path, base_model="b")
    loaded = load_vectors(path)
    assert isinstance(loaded, AdaptiveVectors)
    assert torch.equal(loaded.vectors, vectors.vectors)
    assert torch.equal(loaded.gates[:, :32], vectors.gates[:, :32])
    with attach(model, path):
        assert torch.equal(model(IDS).logits, steered)
    with pytest.raises(ConfigError, match=r"init_from.*holds AdaptiveVectors.*SteeringVectors"):
        SteeringVectors([1], init_from=str(path)).build(model)
    again = AdaptiveVectors([1], init_from=str(path))
    again.build(model)
    assert torch.equal(again.gates[:, :32], vectors.gates[:, :32])


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRankVectors(rank=2),
        lambda: LowRankVectors(rank=1, directions="random", site="mlp_output"),
        lambda: AdaptiveVectors(tokens="completion"),
    ],
    ids=["trained", "random", "adaptive"],
)
def test_sampler_and_trainer_agree_and_the_gradient_is_autograds(make) -> None:
    steering: SiteVectors = make()
    policy = tiny_policy("qwen2", steering)
    base = policy.base_sha256()
    for parameter in steering.parameters():
        parameter.data.normal_(std=0.5)
    engine = DecodeEngine()
    prompts = make_prompts(["a", "two words", "a longer prompt"])
    check_engine(engine, policy, prompts)
    assert engine.fallback is None
    assert why_not_packed(policy) is None
    sampling = Sampling(group_size=3, max_new_tokens=6, eos_token_ids=list(range(40, 80)))
    rollouts = engine.generate(prompts, sampling, seed=0, step=0)
    advantages = torch.randn(3, 3)
    parameters = list(steering.parameters())
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // 3].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        ids = torch.tensor([prompt + completion.tolist()])
        logits = policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1]
        logprobs = logits.log_softmax(-1)[range(len(completion)), completion]
        total = total + advantage * logprobs.sum()
    expected = torch.autograd.grad(-total / 9, parameters)
    for checkpointing in (False, True):
        gradients = BatchGradient(
            loss=PolicyGradient(),
            temperature=1.0,
            max_tokens=40,
            activation_checkpointing=checkpointing,
        )
        step = gradients.plan(policy, Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(policy, step)
        assert totals.mismatch["max"] < 1e-5
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
            assert gradient.abs().max() > 1e-4
    assert policy.base_sha256() == base
