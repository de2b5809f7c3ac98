"""The memory plan counts what real tensors take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
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
        kept_checkpointed=1.0, kept_layer=2.0, vocabulary=5,
    )  # fmt: skip
    values = {"tokens_in_flight": 50, "sequence": 25, "micro_batch": 30, "state_bytes": 2}
    head = 12 * 2**24
    one = plan(sizes, Setting(gpus=1, gpu_bytes=10**9, checkpointing=False, **values))
    assert one["rollout"] == 1000 + 100 + 50 * 2 + 12 * 2 * 5
    assert one["update"] == 1000 + 100 + 30 * 7 + head
    again = plan(sizes, Setting(gpus=1, gpu_bytes=10**9, checkpointing=True, **values))
    assert again["update"] == 1000 + 100 + 30 * 3 + head
    four = plan(sizes, Setting(gpus=4, gpu_bytes=2000, checkpointing=False, **values))
    assert four["gathers_for_rollouts"]
    assert four["rollout"] == 250 + 100 + 1000 + 100 + 120
    assert four["update"] == 250 + 100 + (2 * 100 + 200) + 210 + head
    assert not four["fits"]
    small = plan(sizes, Setting(gpus=4, gpu_bytes=1900, checkpointing=False, **values))
    assert not small["gathers_for_rollouts"], "more than half of a GPU"
    assert small["rollout"] == 250 + 100 + 400 + 100 + 120
    assert small["most_tokens_in_flight"] == (int(0.95 * 1900) - 870) // 2
