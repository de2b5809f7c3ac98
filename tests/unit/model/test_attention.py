"""Tests of the interface to transformers' attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_lightning.model.attention import AttentionCall, attention_by, sources_of_keys
from steer_lightning.testing import tiny_model


def test_a_model_attends_by_a_function_of_our_own_within_the_block_alone() -> None:
    model, calls = tiny_model(), []
    ids = torch.tensor([[1, 2, 3]])

    def attend(call: AttentionCall) -> torch.Tensor:
        calls.append(call)
        return torch.zeros_like(call.query).transpose(1, 2)

    names, before = set(ALL_ATTENTION_FUNCTIONS), model(ids).logits
    with attention_by(model, attend):
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)
    assert set(ALL_ATTENTION_FUNCTIONS) == names
    assert [call.layer for call in calls] == list(range(model.config.num_hidden_layers))
    size = calls[0].query.shape[-1]
    assert calls[0].scale == size**-0.5
    assert calls[0].window is calls[0].softcap is calls[0].sinks is None


def call_with(states: torch.Tensor, **fields: Any) -> AttentionCall:
    plain = {"scale": 1.0, "window": None, "softcap": None, "sinks": None}
    return AttentionCall(
        module=torch.nn.Identity(),
        query=states,
        key=states,
        value=states,
        **{**plain, **fields},
    )


def test_a_module_that_does_not_know_its_layer_is_refused() -> None:
    with pytest.raises(AttributeError, match="layer_idx"):  # the self-check falls back
        print(call_with(torch.zeros(1, 1, 1, 2)).layer)


def test_caps_and_sinks_by_hand() -> None:
    one = torch.ones(1, 1, 2, 1)
    values = torch.tensor([2.0, 6.0]).view(1, 1, 2, 1)

    def over(**fields: Any) -> list[float]:
        call = call_with(one, scale=math.log(9.0), **fields)
        key = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
        found: list[float] = call.over(one, key, values, None).flatten().tolist()
        return found

    # the scores are 0 and log 9: the second token sees its predecessor with a weight of 1 / 10
    assert over() == pytest.approx([2.0, 0.1 * 2 + 0.9 * 6])
    assert over(softcap=1e6) == pytest.approx(over())
    capped = math.exp(2 * math.tanh(math.log(9.0) / 2))
    assert over(softcap=2.0) == pytest.approx([2.0, (2 + capped * 6) / (1 + capped)])
    # a sink of score log 10 has ten times the weight of the score 0, and the value 0
    sinks = torch.tensor([math.log(10.0)])
    assert over(sinks=sinks) == pytest.approx([2 / 11, (2 + 9 * 6) / 20])


def test_upper_layers_read_the_keys_of_the_last_layer_of_their_type() -> None:
    config = tiny_model("gemma4", layers=7).config
    config.num_kv_shared_layers = 3
    assert config.layer_types[:4] == ["full_attention", "sliding_attention"] * 2
    # the last one is of full attention, whatever is asked for
    assert sources_of_keys(config) == [0, 1, 2, 3, 2, 3, 2]
    assert sources_of_keys(tiny_model("gemma3").config) == [0, 1, 2]
