"""Vectors that are added by hooks: where, to which tokens, and with which gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError, attach
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, RolloutEngine, Sampling
from steer_lightning.steering import SteeringVectors, find_layers
from steer_lightning.steering.sites import find_sites
from steer_lightning.testing import (
    ARCHITECTURES,
    check_engine,
    make_prompts,
    tiny_model,
    tiny_policy,
)
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import why_not_packed
from steer_lightning.types import Rollouts
from tests.odd_places import LAYERS, WIDTH, odd_model

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
ALL = sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ALL)
def test_finds_the_layers_and_steers_their_output(architecture: str) -> None:
    model = tiny_model(architecture)
    layers = find_layers(model)
    assert len(layers) == 3
    seen: dict[int, torch.Tensor] = {}
    for k, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda m, x, o, k=k: seen.__setitem__(
                k, (o if torch.is_tensor(o) else o[0]).detach().clone()
            )
        )
    model(IDS)
    before = dict(seen)
    vectors = torch.zeros(3, 32)
    vectors[1] = torch.randn(32)
    with attach(model, vectors):
        inner: dict[int, torch.Tensor] = {}
        handle = layers[1].register_forward_hook(
            lambda m, x, o: inner.__setitem__(
                1, (o if torch.is_tensor(o) else o[0]).detach().clone()
            )
        )
        steered = model(IDS).logits
        handle.remove()
    torch.testing.assert_close(seen[0], before[0])  # below: untouched
    torch.testing.assert_close(
        inner[1], before[1] + vectors[1]
    )  # the layer itself: shifted by v at every token
    assert (steered - model(IDS).logits).abs().max() > 1e-4
    assert torch.equal(model(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("architecture", ALL)
def test_zero_vectors_equal_the_base_bit_for_bit(architecture: str) -> None:
    model = tiny_model(architecture)
    base = model(IDS).logits
    with attach(model, torch.zeros(3, 32)):
        assert torch.equal(model(IDS).logits, base)


@pytest.mark.parametrize("architecture", ALL)
def test_gradient_is_the_sum_over_tokens_of_the_streams_gradient(architecture: str) -> None:
    policy = tiny_policy(architecture, SteeringVectors(scale="none"))
    streams: dict[int, torch.Tensor] = {}

    def keep(row: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        stream.retain_grad()
        streams[row] = stream

    for row, layer in enumerate(
        policy.layers
    ):  # behind the policy's own hook: sees the steered stream
        layer.register_forward_hook(lambda m, x, o, row=row: keep(row, o))
    policy.logits(IDS, torch.ones_like(IDS), 5).float().pow(2).mean().backward()
    gradient = policy.steering.weight.grad
    assert gradient is not None
    assert gradient.shape == (3, 256)
    for row in range(3):
        torch.testing.assert_close(
            gradient[row, :32], streams[row].grad.flatten(0, -2).sum(0), rtol=1e-4, atol=1e-7
        )
        assert gradient[row, :32].abs().max() > 0
    assert (gradient[:, 32:] == 0).all()  # the padding learns nothing
    assert all(p.grad is None for p in policy.model.parameters())


def test_steering_is_cast_to_the_streams_dtype() -> None:
    model = tiny_model().to(torch.bfloat16)
    with attach(model, torch.randn(3, 32)):
        assert model(IDS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ALL)
def test_constant_vectors_are_biases_where_a_layer_allows_it(architecture: str) -> None:
    policy = tiny_policy(architecture)
    policy.steering.set_vectors(torch.randn(3, 32))
    logits = policy.model(IDS).logits
    before, digest = set(policy.model.state_dict()), policy.base_sha256()
    with torch.no_grad(), policy.constant_vectors():
        folded = set(policy.model.state_dict()) - before
        torch.testing.assert_close(policy.model(IDS).logits, logits, atol=1e-5, rtol=1e-4)
    allows = architecture in ("llama", "mistral", "phi3", "qwen2", "qwen3")
    names = {f"model.layers.{k}.mlp.down_proj.bias" for k in range(3)}
    assert folded == (names if allows else set())
    assert policy.base_sha256() == digest
    assert torch.equal(policy.model(IDS).logits, logits)


SITES = ["layer_output", "input_norm", "attention_output", "post_attention_norm", "mlp_output"]
TOKENS = ["prompt", "completion", "last_prompt"]

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9"])


@contextmanager
def by_hand(model: nn.Module, vectors: SteeringVectors, first: int) -> Iterator[None]:
    """Adds the vectors to one unpadded row whose completion begins at `first`."""
    chosen = {"all": slice(None), "prompt": slice(0, first), "completion": slice(first, None)}
    chosen["last_prompt"] = slice(first - 1, first)
    layers = find_layers(model)

    def add(row: int, y: Any) -> Any:
        stream = y if torch.is_tensor(y) else y[0]
        change = torch.zeros_like(stream)
        change[:, chosen[vectors.tokens]] = vectors.vectors[row]
        return stream + change if torch.is_tensor(y) else (stream + change, *y[1:])

    handles = [
        place.register_forward_hook(lambda m, x, y, row=row: add(row, y))
        for row, place in enumerate(find_sites(layers, vectors.layers, vectors.site))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def formula(policy: Policy, rollouts: Rollouts, advantages: torch.Tensor) -> torch.Tensor:
    """The gradient of - mean_i [ A_i * sum_t log pi(y_it) ], a row at a time."""
    vectors = policy.steering
    assert isinstance(vectors, SteeringVectors)
    policy.attachment.remove()
    total = torch.zeros(())
    for n, advantage in enumerate(advantages.flatten()):
        prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
        completion = rollouts.completion_ids[n][rollouts.completion_mask[n]]
        with by_hand(policy.model, vectors, len(prompt)):
            logits = policy.model(torch.tensor([prompt + completion.tolist()])).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found = logprobs[range(len(completion)), completion]
        sampled = rollouts.logprobs[n][rollouts.completion_mask[n]]
        torch.testing.assert_close(found, sampled, rtol=1e-4, atol=1e-5)
        total = total + advantage * found.sum()
    (gradient,) = torch.autograd.grad(-total / advantages.numel(), vectors.weight)
    return gradient


CASES = [("llama", "layer_output", x, y) for x in TOKENS for y in (DecodeEngine, GenerateEngine)]
CASES += [("qwen2", site, "all", DecodeEngine) for site in SITES[1:]]
CASES += [
    ("gemma3", "mlp_output", "last_prompt", DecodeEngine),
    ("qwen3", "post_attention_norm", "prompt", DecodeEngine),
    ("gpt2", "attention_output", "completion", GenerateEngine),
    ("falcon", "layer_output", "completion", DecodeEngine),  # falls back, and pads
]


@pytest.mark.parametrize(("architecture", "site", "tokens", "make_engine"), CASES)
def test_sampler_and_trainer_steer_the_same_tokens(
    architecture: str, site: str, tokens: str, make_engine: Callable[[], RolloutEngine]
) -> None:
    engine = make_engine()
    policy = tiny_policy(architecture, SteeringVectors([0, 2], site=site, tokens=tokens))
    policy.steering.set_vectors(torch.randn(2, 32))
    check_engine(engine, policy)
    assert getattr(engine, "fallback", None) is None or architecture == "falcon"
    stops = list(range(40, 80))  # rows of unequal length
    sampling = Sampling(group_size=4, max_new_tokens=9, eos_token_ids=stops)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0, on_completion=lambda *_: None)
    advantages = torch.randn(4, 4)
    packs = why_not_packed(policy) is None
    assert packs == (architecture != "falcon")
    found = []
    for settings in (
        {"packed": packs},
        {"packed": packs, "activation_checkpointing": True, "max_tokens": 60},
        {"packed": False, "activation_checkpointing": True},
    ):
        plain = {"loss": PolicyGradient(), "temperature": 1.0, "max_tokens": 10_000}
        gradients = BatchGradient(policy=policy, **{**plain, **settings})
        step = gradients.plan(Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(step)
        assert totals.mismatch["max"] < 1e-5
        found.append(policy.steering.weight.grad.clone())
    expected = formula(policy, rollouts, advantages)
    assert expected.abs().max() > 1e-3
    for gradient in found:
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tokens", TOKENS)
def test_generate_steers_the_tokens_that_were_asked_for(tokens: str) -> None:
    model = tiny_model("qwen2")
    vectors = SteeringVectors(tokens=tokens).shaped(32, 3)
    vectors.set_vectors(torch.randn(3, 32) * 3)
    ids = torch.tensor([[0, 0, 1, 10], [1, 10, 20, 30]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with attach(model, vectors):
        made = model.generate(
            ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=[300]
        )
    for row, length in zip(made, (2, 4), strict=True):
        text = row[4 - length :][None]
        with by_hand(model, vectors, length):
            logits = model(text).logits[0, length - 1 : -1]
        assert logits.argmax(-1).tolist() == text[0, length:].tolist()


@pytest.mark.parametrize("architecture", ["gemma3n", "deepseek_v4", "hy_v4"])
def test_layers_that_hand_on_several_streams_are_refused_in_the_first_pass(
    architecture: str,
) -> None:
    model = odd_model(architecture)
    with (
        attach(model, torch.zeros(LAYERS, WIDTH)),
        pytest.raises(ConfigError, match=r"several streams.*Set model\.steering\.site: mlp_output"),
    ):
        model(input_ids=IDS)


@pytest.mark.parametrize("tokens", TOKENS)
def test_layers_that_read_only_some_positions_are_told_their_roles(tokens: str) -> None:
    """Layers of Gemma 4 that share keys read the positions whose logits are asked for."""
    model = odd_model("gemma4")
    vectors = SteeringVectors(tokens=tokens, scale="none").shaped(WIDTH, LAYERS)
    vectors.set_vectors(torch.randn(LAYERS, WIDTH))
    roles = torch.tensor([[0, 0, 1, 2, 2]])
    read: list[int] = []
    mask = torch.ones(2, 5, dtype=torch.long)
    with attach(model, vectors) as attachment, attachment.with_roles(roles):
        find_layers(model)[-1].register_forward_hook(lambda m, x, y: read.append(y.shape[1]))
        whole = model(input_ids=IDS, attention_mask=mask, use_cache=False).logits
        last = model(input_ids=IDS, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
    assert read == [5, 1]
    torch.testing.assert_close(last[:, 0], whole[:, -1])


def test_a_part_of_the_model_is_not_steered_by_roles_of_another_text() -> None:
    model = tiny_model()
    vectors = SteeringVectors(tokens="prompt").shaped(32, 3)
    with attach(model, vectors):
        model(IDS)
        with pytest.raises(ConfigError, match="roles of 7 tokens of this pass are unknown"):
            model.model(torch.ones(1, 7, dtype=torch.long))


def test_arguments_may_come_by_position() -> None:
    model, vectors = tiny_model(), SteeringVectors(tokens="completion").shaped(32, 3)
    vectors.set_vectors(torch.randn(3, 32))
    with torch.no_grad(), attach(model, vectors):
        cache = model(IDS[:1, :4], use_cache=True).past_key_values
        by_position = model(IDS[:1, 4:], None, None, cache).logits
        cache = model(IDS[:1, :4], use_cache=True).past_key_values
        by_name = model(input_ids=IDS[:1, 4:], past_key_values=cache).logits
    assert (by_name - model(IDS[:1]).logits[:, -1]).abs().max() > 1e-3
    torch.testing.assert_close(by_position, by_name)


@pytest.mark.parametrize("site", ["layer_output", "attention_output"])
def test_outputs_that_are_lists_stay_lists(site: str) -> None:
    model, vectors = odd_model("gpt1"), SteeringVectors(site=site).shaped(WIDTH, LAYERS)
    base = model(input_ids=IDS).logits
    vectors.set_vectors(torch.randn(LAYERS, WIDTH))
    with attach(model, vectors):
        assert (model(input_ids=IDS).logits - base).abs().max() > 0.1
