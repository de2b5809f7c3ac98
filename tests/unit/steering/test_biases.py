"""BitFit changes each bias, and nothing else."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.steering import BitFit
from steer_lightning.testing import tiny_model


def test_each_bias_and_nothing_else_is_chosen() -> None:
    """Qwen2 has them in the projections of queries, keys and values of each of its 3 layers."""
    steering = BitFit()
    steering.build(tiny_model("qwen2"))
    projections = ("q_proj", "k_proj", "v_proj")
    expected = [f"model.layers.{n}.self_attn.{x}.bias" for n in range(3) for x in projections]
    assert sorted(steering.names) == sorted(expected)
    assert steering.describe() == "the changes of 9 biases"


def test_a_model_without_biases_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"a LlamaForCausalLM, has no biases.*SteeringVectors"):
        BitFit().build(tiny_model("llama"))
