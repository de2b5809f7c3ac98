"""Vectors at other places than a layer's output, and on some tokens alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from steer_lightning import ConfigError, attach, load_vectors, save_vectors
from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, GenerateEngine, RolloutEngine, Sampling
from steer_lightning.steering import SteeringVectors, find_layers
from steer_lightning.steering.sites import find_sites
from steer_lightning.steering.tokens import is_steered, roles_of_call, text_roles
from steer_lightning.testing import (
    check_engine,
    make_prompts,
    save_tiny,
    tiny_model,
    tiny_policy,
)
from steer_lightning.training.batch import Batch
from steer_lightning.training.forward import why_not_packed
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.packing import Packing
from steer_lightning.types import Rollouts

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
SITES = ["layer_output", "input_norm", "attention_output", "post_attention_norm", "mlp_output"]
TOKENS = ["prompt", "completion", "last_prompt"]
LACKING = {
    "olmo2": {"input_norm", "post_attention_norm"},  # its norms stand behind attention and MLP
    "falcon": {"post_attention_norm"},  # one norm for both
    "opt": {"input_norm", "post_attention_norm", "mlp_output"},  # depends on the size; no module
}
PROMPTS = make_prompts(["a", "two words", "a rather longer prompt, for windows of 8", "z9"])


def output_of(module: nn.Module, seen: list[torch.Tensor]) -> Any:
    return module.register_forward_hook(
        lambda m, x, y: seen.append((y if torch.is_tensor(y) else y[0]).detach().clone())
    )


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "gpt_neox", *LACKING])
def test_the_output_of_the_place_is_shifted(architecture: str, site: str) -> None:
    model, vectors = tiny_model(architecture), SteeringVectors([1], site=site)
    if site in LACKING.get(architecture, set()):
        with pytest.raises(ConfigError, match=rf"site = '{site}'.*model\.base.*attention_output"):
            vectors.build(model)
        return
    vectors.build(model)
    (place,) = find_sites(find_layers(model), [1], site)
    base = model(IDS).logits
    with attach(model, vectors):
        assert torch.equal(model(IDS).logits, base), "zero vectors are the base, bit for bit"
    vectors.set_vectors(torch.randn(1, 32))
    seen: list[torch.Tensor] = []
    handle = output_of(place, seen)
    model(IDS)
    handle.remove()
    with attach(model, vectors):
        handle = output_of(place, seen)
        assert (model(IDS).logits - base).abs().max() > 1e-4
        handle.remove()
    torch.testing.assert_close(seen[1], seen[0] + vectors.vectors[0])


def test_what_a_site_is_by_what_reads_it() -> None:
    """Gemma's post_attention_layernorm is not what enters its MLP."""
    layers = find_layers(tiny_model("gemma3"))
    (found,) = find_sites(layers, [0], "post_attention_norm")
    assert found is layers[0].pre_feedforward_layernorm
    (found,) = find_sites(find_layers(tiny_model("qwen2")), [0], "post_attention_norm")
    assert type(found).__name__ == "Qwen2RMSNorm"


def test_a_site_that_is_not_there_is_refused_before_the_weights_are_read(tmp_path) -> None:
    folder = save_tiny(tmp_path, "olmo2")
    (tmp_path / "model.safetensors").unlink()
    policy = Policy(folder, steering=SteeringVectors(site="input_norm"))
    with pytest.raises(ConfigError, match=r"model\.steering\.site.*model\.base.*Olmo2Decoder"):
        policy.load()
    with pytest.raises(ConfigError, match=r"layers = \[7\].*0 to 2"):
        Policy(folder, steering=SteeringVectors([7])).prepare()


def test_a_vector_behind_the_mlp_is_one_at_the_output_where_no_norm_is_between() -> None:
    rows = torch.randn(3, 32)
    for architecture, same in (("qwen2", True), ("gemma3", False)):
        model, found = tiny_model(architecture), []
        for site in ("layer_output", "mlp_output"):
            vectors = SteeringVectors(site=site).shaped(32, 3)
            vectors.set_vectors(rows)
            with attach(model, vectors) as attachment, torch.no_grad():
                found.append(model(IDS).logits)
                with attachment.constant():
                    torch.testing.assert_close(model(IDS).logits, found[-1])
        assert torch.allclose(*found, atol=1e-5) == same


# ---- tokens


def test_roles_by_hand() -> None:
    assert text_roles(torch.zeros(2, 5), 2).tolist() == [[0, 0, 1, 2, 2]] * 2
    assert text_roles(torch.zeros(1, 2), 0).tolist() == [[0, 1]]
    assert text_roles(torch.zeros(1, 1), 1).tolist() == [[2]]
    roles = text_roles(torch.zeros(1, 4), 1)
    found = {tokens: is_steered(roles, tokens)[0, :, 0].int().tolist() for tokens in TOKENS}
    assert found == {
        "prompt": [1, 1, 1, 0],
        "completion": [0, 0, 0, 1],
        "last_prompt": [0, 0, 1, 0],
    }
    packing = Packing([[1, 2, 3], [1, 2, 3], [7]], [0, 0, 5], [[4, 5], [6], [8, 9, 10]],
                      torch.device("cpu"))  # fmt: skip
    assert packing.ids.tolist() == [[1, 2, 3, 4, 7, 8, 9]]
    assert packing.roles.tolist() == [[0, 0, 1, 2, 1, 2, 2]]


def test_roles_of_a_pass_that_nobody_explains() -> None:
    ids = torch.zeros(3, 4, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]])  # left- and right-padded
    found = roles_of_call({"input_ids": ids, "attention_mask": mask})
    assert found.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert roles_of_call({"inputs_embeds": torch.zeros(1, 3, 8)}).tolist() == [[0, 0, 1]]
    cache = DynamicCache()
    assert roles_of_call({"input_ids": ids[:1], "past_key_values": cache}).tolist() == [
        [0, 0, 0, 1]
    ]
    cache.update(torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8), 0)
    assert roles_of_call({"input_ids": ids[:1, :1], "past_key_values": cache}).tolist() == [[2]]


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
    policy._attachment.remove()
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
        gradients = BatchGradient(**{**plain, **settings})
        step = gradients.plan(policy, Batch.alone(rollouts, advantages))
        totals = gradients.accumulate(policy, step)
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


def test_files_of_other_places_are_of_version_2(tmp_path) -> None:
    path = tmp_path / "v.safetensors"
    vectors = SteeringVectors([0, 2], site="mlp_output", tokens="completion").shaped(5, 4)
    vectors.set_vectors(torch.randn(2, 5))
    save_vectors(vectors, path, base_model="b", step=3)
    found = load_vectors(path)
    assert torch.equal(found.vectors, vectors.vectors)
    assert (found.site, found.tokens, found.layers) == ("mlp_output", "completion", (0, 2))
    assert found.metadata["format_version"] == "2"
    vectors = SteeringVectors([0, 2], init_from=str(path))
    with pytest.raises(ConfigError, match=r"width 5; this\s+run .* width 32"):
        tiny_policy(steering=vectors, layers=4)
    vectors = SteeringVectors([0, 2], init_from=str(path)).shaped(5, 4)
    with pytest.raises(ConfigError, match=r"steering\.site = 'layer_output'.*init_from.*mlp_out"):
        vectors._start_from(str(path), "b")
