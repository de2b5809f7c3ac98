"""A quantised base reads, learns and samples like a plain one with the dequantised weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.losses import PolicyGradient, TruncatedImportance
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import (
    Quantization,
    QuantizedCopy,
    num_bytes,
    plain_linears,
    quantize_base,
    told_precision,
    while_sampling,
)
from steer_lightning.model.quantized_linear import QuantizedLinear, QuantizedWeight
from steer_lightning.rollout import (
    DecodeEngine,
    GenerateEngine,
    RolloutEngine,
    Sampling,
    VLLMEngine,
)
from steer_lightning.steering import (
    BitFit,
    FullFinetune,
    LoRA,
    LoReFT,
    SMoA,
    Steering,
    SteeringVectors,
    TinyLoRA,
    VectorFit,
    VeRA,
)
from steer_lightning.testing import byte_tokenizer, make_prompts, save_tiny, tiny_model
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import fastest, why_not_packed
from steer_lightning.types import Rollouts

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])
TEXTS = ["a", "some words", "b c"]
ADVANTAGES = torch.linspace(-1, 1, 6).view(3, 2)
SAMPLING = Sampling(group_size=2, max_new_tokens=8)


def tiny_base() -> Any:
    """A tiny model whose layers matter so much to its logits that their rounding shows."""
    model = tiny_model("qwen2")
    with torch.no_grad():
        for layer in plain_linears(model).values():
            layer.weight *= 6
    return model


def dequantised(model: Any) -> Any:
    """The same model with plain layers that hold the dequantised weights."""
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, QuantizedLinear):
            parent, _, child = name.rpartition(".")
            other = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            other.weight, other.bias = nn.Parameter(layer.weight), layer.bias
            setattr(plain.get_submodule(parent), child, other.requires_grad_(False))
    return plain


def policy_on(model: Any, steering: Steering | None = None, **options: Any) -> Policy:
    policy = Policy("tiny", steering=steering, **options)
    policy.tokenizer = byte_tokenizer()
    policy.steering.build(tiny_model("qwen2"))
    policy.adopt(model)
    if isinstance(policy.steering, SteeringVectors):
        numbers = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        policy.steering.set_vectors(0.1 * numbers)
    return policy


def pair(bits: Any, steering: type[Steering] = SteeringVectors) -> tuple[Policy, Policy]:
    """A policy on a quantised base, and one on the same numbers in plain layers."""
    model = quantize_base(tiny_base(), bits)
    torch.manual_seed(0)
    one = policy_on(copy.deepcopy(model), steering(), quantization=Quantization(bits=bits))
    torch.manual_seed(0)
    return one, policy_on(dequantised(model), steering())


def answers(policy: Policy, engine: RolloutEngine) -> Rollouts:
    engine.setup(policy)
    found: Rollouts = engine.generate(make_prompts(TEXTS), SAMPLING, seed=0, step=0)
    return found


def plain_logprobs(policy: Policy, rollouts: Rollouts) -> torch.Tensor:
    """Log-probabilities of all completion tokens, one text at a time, one after another."""
    found = []
    for n, mask in enumerate(rollouts.completion_mask):
        prompt = list(rollouts.prompts[n // rollouts.group_size].token_ids)
        completion = rollouts.completion_ids[n][mask]
        ids = torch.tensor([prompt + completion.tolist()])
        logits = policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1]
        found.append(logits.log_softmax(-1).gather(-1, completion[:, None])[:, 0])
    return torch.cat(found)


def gradient_of(policy: Policy, packed: bool) -> BatchGradient:
    return BatchGradient(
        policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=4096, packed=packed
    )


def test_linear_layers_are_quantised_and_nothing_else() -> None:
    model = quantize_base(tiny_model("qwen2"), 8)
    kinds = {type(layer) for layer in model.model.layers.modules() if isinstance(layer, nn.Linear)}
    assert kinds == {QuantizedLinear}
    assert type(model.lm_head) is nn.Linear
    assert model.dtype == torch.float32
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    assert names == {"weight", "bias"}
    assert not any("proj.weight" in name for name, _ in model.named_parameters())


def test_bytes_are_those_of_codes_scales_and_the_rest() -> None:
    model = tiny_model("qwen2")
    before, numbers = num_bytes(model), [x.weight.numel() for x in plain_linears(model).values()]
    blocks = sum(-(-count // 64) for count in numbers)
    after = num_bytes(quantize_base(model, 8))
    assert before - after == 4 * sum(numbers) - sum(numbers) - 4 * blocks - 4 * 256 * len(numbers)


@pytest.mark.parametrize("bits", [4, 8])
def test_logits_and_gradients_are_those_of_the_dequantised_weights(bits: Any) -> None:
    ours, theirs = pair(bits)
    logits = [policy.logits(IDS, torch.ones_like(IDS), 5) for policy in (ours, theirs)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    full = policy_on(tiny_base()).logits(IDS, torch.ones_like(IDS), 5)
    assert float((logits[0] - full).detach().abs().max()) > 1e-3, "quantisation moves the logits"
    for found in logits:
        found.pow(2).mean().backward()
    grads = [policy.steering.weight.grad for policy in (ours, theirs)]
    assert float(grads[0].abs().max()) > 1e-4
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_the_gradient_of_an_update_is_that_of_the_dequantised_weights(packed: bool) -> None:
    ours, theirs = pair(4)
    rollouts, grads = answers(theirs, DecodeEngine()), []
    for policy in (ours, theirs):
        gradient = gradient_of(policy, packed)
        gradient.accumulate(
            gradient.plan(Batch.alone(rollouts, torch.linspace(-1, 1, 6).view(3, 2)))
        )
        grads.append(policy.steering.weight.grad)
    assert float(grads[0].abs().max()) > 1e-4
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        (SteeringVectors, DecodeEngine),
        (SteeringVectors, GenerateEngine),
        (LoRA, DecodeEngine),
        (BitFit, DecodeEngine),
    ],
)
def test_engine_and_update_agree_on_a_quantised_base(
    kind: type[Steering], engine: type[RolloutEngine]
) -> None:
    ours, theirs = pair(4, kind)
    rollouts = answers(ours, engine())
    assert torch.equal(rollouts.completion_ids, answers(theirs, engine()).completion_ids)
    assert why_not_packed(ours) is None
    gradient = fastest(gradient_of(ours, packed=False))
    assert gradient.packed
    found = gradient.accumulate(gradient.plan(Batch.alone(rollouts, torch.ones(3, 2))))
    assert 0 <= found.mismatch["max"] < 1e-4
    assert any(
        float(p.grad.abs().max()) > 0 for p in ours.steering.parameters() if p.grad is not None
    )


def test_importance_weights_of_rollouts_from_a_copy() -> None:
    chosen = Quantization(bits=4, where="rollouts")
    policy = policy_on(tiny_base(), quantization=chosen)
    before = policy.base_sha256()
    engine, context = DecodeEngine(), while_sampling(policy)
    engine.setup(policy)
    with context():
        rollouts = engine.generate(make_prompts(TEXTS), SAMPLING, seed=0, step=0)
    quantised, full = policy_on(quantize_base(tiny_base(), 4)), policy_on(tiny_base())
    assert policy.base_sha256() == before == full.base_sha256() != quantised.base_sha256()
    with torch.no_grad():
        by_copy, by_base = (plain_logprobs(reader, rollouts) for reader in (quantised, full))
    torch.testing.assert_close(
        rollouts.logprobs[rollouts.completion_mask], by_copy, atol=1e-5, rtol=0
    )
    gaps = by_base - by_copy
    ratios = gaps.exp()
    assert float((ratios - 1).abs().max()) > 0.01, "the copy is another model"
    cap = float(ratios.quantile(0.7))  # above 1 here, so that some weights are capped
    assert cap > 1
    gradient = BatchGradient(
        policy=policy,
        loss=PolicyGradient(correction=TruncatedImportance(cap=cap)),
        temperature=1.0,
        max_tokens=4096,
    )
    totals = gradient.accumulate(gradient.plan(Batch.alone(rollouts, torch.ones(3, 2))))
    assert totals.mismatch["mean"] == pytest.approx(float(gaps.abs().mean()), rel=1e-3)
    # the gradient is that of sum c log pi / N with the weights of the two plain passes
    weighted = ratios.clamp(max=cap) * plain_logprobs(full, rollouts)
    (-weighted.sum() / len(rollouts.texts)).backward()
    expected = full.steering.weight.grad
    torch.testing.assert_close(policy.steering.weight.grad, expected, atol=1e-6, rtol=1e-3)


def test_the_base_itself_is_read_outside_of_the_rollouts() -> None:
    policy = policy_on(tiny_base(), quantization=Quantization(bits=4, where="rollouts"))
    mask = torch.ones_like(IDS)
    before, context = policy.logits(IDS, mask, 5), while_sampling(policy)
    with context():
        inside = policy.logits(IDS, mask, 5)
    assert not torch.equal(inside, before)
    assert torch.equal(policy.logits(IDS, mask, 5), before)
    with pytest.raises(KeyboardInterrupt), context():
        raise KeyboardInterrupt
    assert torch.equal(policy.logits(IDS, mask, 5), before)


def test_a_copy_has_the_bias_of_the_moment_and_no_matrices_of_lora() -> None:
    policy = policy_on(tiny_base(), LoRA(), quantization=Quantization(where="rollouts"))
    copied = QuantizedCopy(policy, 8)
    assert len(copied._layers) == 21
    layer, weight = copied._layers[0]
    layer.bias = nn.Parameter(torch.full((layer.out_features,), 3.0), requires_grad=False)
    x = torch.ones(1, layer.in_features)
    with copied.in_place():
        found = layer(x)
    expected = x @ QuantizedWeight(layer.weight, 8).dequantized(torch.float32).T + 3
    torch.testing.assert_close(found, expected)
    assert weight.shape == layer.weight.shape


def test_bases_that_can_not_be_quantised() -> None:
    chosen = Quantization(bits=8)
    told = r"model.quantization = '8 bits': can't be used with this model.base"
    with pytest.raises(ConfigError, match=told + r".*GPT2LMHeadModel has no nn.Linear besides"):
        chosen.check_base(tiny_model("gpt2"))
    done = tiny_model()
    done.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ConfigError, match=told + ".*quantised already"):
        chosen.check_base(done)
    with pytest.raises(ConfigError, match=r"model.quantization.*trainer.strategy: fsdp or fsdp2"):
        chosen.check_sharding(True)
    chosen.check_base(tiny_model())
    chosen.check_sharding(False)


def test_kinds_and_engines_that_do_not_go_with_it() -> None:
    chosen = Quantization()
    for kind in (FullFinetune(), VectorFit(), SMoA(), TinyLoRA(), VeRA()):
        told = (
            rf"model.steering = '{type(kind).__name__}': can't be used with model.quantization.*"
            "made for linear layers with plain weights.*Train vectors, LoReFT, BitFit or LoRA"
        )
        with pytest.raises(ConfigError, match=told):
            chosen.check_steering(kind)
    for other in (SteeringVectors(), LoReFT(), LoRA(), BitFit()):
        chosen.check_steering(other)
    with pytest.raises(ConfigError, match=r"model.quantization.*model.engine = VLLMEngine"):
        chosen.check_engine(VLLMEngine())
    chosen.check_engine(DecodeEngine())


def test_unknown_values() -> None:
    with pytest.raises(ConfigError, match=r"model.quantization.bits = 3: must be 4 or 8"):
        Quantization(bits=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model.quantization.where = 'update': must be 'both'"):
        Quantization(where="update")  # type: ignore[arg-type]


def test_a_policy_loads_the_quantised_base_and_its_vectors_say_so(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base", "qwen2")
    told, num_parameters = [], sum(x.numel() for x in tiny_model("qwen2").parameters())
    for chosen in (None, Quantization(bits=8), Quantization(bits=8, where="rollouts")):
        policy = Policy(folder, quantization=chosen)
        policy.load()
        policy.steering.save(tmp_path / "v.safetensors", base_model=folder)
        told.append((policy.base_bits, policy.steering.base_facts, told_precision(policy)))
        assert policy.sharding.num_parameters(policy.model) == num_parameters
    assert told == [
        (None, {}, "torch.float32"),
        (8, {"base_bits": "8"}, "torch.float32, linear layers in 8 bits"),
        (None, {}, "torch.float32, linear layers in 8 bits in rollouts"),
    ]
