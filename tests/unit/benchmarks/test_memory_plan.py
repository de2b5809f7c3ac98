"""The memory plan counts what real tensors take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from steer_lightning.model.head import token_logprobs

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import memory_plan
from memory_plan import COUNTED_TOKENS, Setting, Sizes, plan, sizes_of

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


@pytest.mark.parametrize("kind", [Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tensors_without_content_are_counted_as_real_ones_are(
    kind: type[PreTrainedConfig], dtype: torch.dtype, checkpointing: bool
) -> None:
    config = kind(**SHAPE, num_hidden_layers=3)
    fake = memory_plan.kept_bytes(config, dtype, checkpointing)
    assert fake == memory_plan.kept_bytes(config, dtype, checkpointing, fake=False)


def test_layers_that_are_not_built_are_foretold() -> None:
    sizes = sizes_of(Qwen2Config(**SHAPE, num_hidden_layers=7), torch.float32)
    seven = memory_plan.kept_bytes(Qwen2Config(**SHAPE, num_hidden_layers=7), torch.float32)
    assert sizes.kept * COUNTED_TOKENS == seven
    attention = 64 * 64 + 64 + 2 * (64 * 32 + 32) + 64 * 64
    layer = attention + 3 * 64 * 160 + 2 * 64
    assert sizes.layer == 4 * layer
    assert sizes.rest == 4 * (2 * 300 * 64 + 64)
    assert sizes.weights == 7 * sizes.layer + sizes.rest
    assert sizes.vectors == 7 * 256, "padded to a block"
    assert sizes.cache == 7 * 2 * 2 * 16 * 4


def test_the_plan_adds_up() -> None:
    sizes = Sizes(
        weights=1000, layer=100, rest=200, vectors=10, cache=2, kept=7.0,
        kept_checkpointed=1.0, kept_layer=2.0, vocabulary=5, itemsize=2,
    )  # fmt: skip
    head = 12 * 2**24

    def planned(strategy: str, gpus: int, gpu_bytes: int, again: bool = False) -> dict[str, Any]:
        values = {"tokens_in_flight": 50, "sequence": 25, "micro_batch": 30, "state_bytes": 2}
        values |= {"gpus": gpus, "gpu_bytes": gpu_bytes}
        return plan(sizes, Setting(strategy=strategy, checkpointing=again, **values))

    one = planned("ddp", 1, 10**9)
    assert one["rollout"] == 1000 + 100 + 50 * 2 + 12 * 2 * 5
    assert one["update"] == 1000 + 100 + 30 * 7 + head
    assert planned("ddp", 1, 10**9, again=True)["update"] == 1000 + 100 + 30 * 3 + head
    four = planned("fsdp2", 4, 2000)
    assert four["gathers_for_rollouts"]
    assert four["rollout"] == 250 + 100 + 1000 + 100 + 120
    assert four["update"] == 250 + 100 + (2 * 100 + 200) + 210 + head
    assert not four["fits"]
    small = planned("fsdp2", 4, 1900)
    assert not small["gathers_for_rollouts"], "more than half of a GPU"
    assert small["rollout"] == 250 + 100 + 400 + 100 + 120
    assert small["most_tokens_in_flight"] == (int(0.95 * 1900) - 870) // 2
    logits = 30 * 5 * (2 + 4)
    flat = planned("fsdp", 4, 1900)
    assert flat["rollout"] == 250 + 100 + 1000 + 100 + 120
    assert flat["update"] == 250 + 100 + 1000 + 210 + logits, "gathered until its end"
    full = planned("fsdp-full", 4, 1900)
    assert full["rollout"] == small["rollout"]
    assert full["update"] == 250 + 100 + 400 + 210 + logits


def test_logits_of_padded_rows_are_kept_in_float32() -> None:
    logits = torch.randn(20, 300, dtype=torch.bfloat16, requires_grad=True)
    with memory_plan.count_kept(set()) as kept:
        token_logprobs(logits, torch.zeros(20, dtype=torch.long), 0.7)
    assert 20 * 300 * 4 <= sum(kept.values()) < 20 * 300 * 4 + 20 * 20
