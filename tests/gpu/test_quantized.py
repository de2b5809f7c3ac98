"""A quantised base on a GPU, against the same base on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.losses import PolicyGradient
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization, quantize_base, while_sampling
from steer_lightning.model.quantized_linear import QuantizedWeight
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.testing import byte_tokenizer, make_prompts, tiny_model
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.training.selfcheck import fastest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
BITS: Any = pytest.mark.parametrize("bits", [4, 8])
PROMPTS = make_prompts(["a", "some words", "b c"])
SAMPLING = Sampling(group_size=4, max_new_tokens=24)


def policy_on(device: str, bits: Any, where: Any = "both") -> Policy:
    policy = Policy("tiny", quantization=Quantization(bits=bits, where=where))
    policy.tokenizer = byte_tokenizer()
    policy.steering.build(tiny_model("qwen2"))
    model = tiny_model("qwen2")
    policy.adopt(quantize_base(model, bits) if where == "both" else model)
    policy.to(device)
    return policy


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_dequantised_as_on_a_cpu(bits: Any, dtype: torch.dtype) -> None:
    weight = torch.randn(77, 33, generator=torch.Generator().manual_seed(0))
    on_cpu = QuantizedWeight(weight, bits).dequantized(dtype)
    moved = QuantizedWeight(weight, bits).cuda().dequantized(dtype)
    torch.testing.assert_close(moved.cpu(), on_cpu)
    made_there = QuantizedWeight(weight.cuda(), bits).dequantized(dtype)
    same = (made_there.cpu() - on_cpu).abs() < 1e-6
    assert float(same.float().mean()) > 0.99, "rounding may decide otherwise between two values"


@BITS
def test_engine_and_update_agree_also_in_captured_passes(bits: Any) -> None:
    policy, engine = policy_on("cuda", bits), DecodeEngine()
    engine.setup(policy)
    rollouts = engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert engine.fallback is None
    gradient = fastest(
        BatchGradient(policy=policy, loss=PolicyGradient(), temperature=1.0, max_tokens=4096)
    )
    assert gradient.packed
    found = gradient.accumulate(gradient.plan(Batch.alone(rollouts, torch.ones(3, 4))))
    assert found.mismatch["max"] < 1e-3


@BITS
def test_captured_passes_of_a_copy_are_not_those_of_the_base(bits: Any) -> None:
    policy, engine = policy_on("cuda", bits, "rollouts"), DecodeEngine()
    engine.setup(policy)
    context = while_sampling(policy)
    before = engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    with context():
        inside = engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    after = engine.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert not torch.equal(before.logprobs, inside.logprobs)
    torch.testing.assert_close(before.logprobs, after.logprobs)
