"""Tests of the interface to transformers' attention."""

from __future__ import annotations

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_lightning.model.attention import AttentionCall, attention_by
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


def test_a_call_names_what_is_refused() -> None:
    states = torch.zeros(1, 1, 1, 2)
    call = AttentionCall(
        module=torch.nn.Identity(),
        query=states,
        key=states,
        value=states,
        scale=1.0,
        window=4,
        softcap=30.0,
        sinks=None,
    )
    call.refuse("sinks")
    with pytest.raises(NotImplementedError, match="attention with softcap"):
        call.refuse("softcap", "sinks")
    with pytest.raises(AttributeError, match="layer_idx"):  # the self-check falls back
        print(call.layer)
