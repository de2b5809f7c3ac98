"""A model attends by a function of our own for as long as it is asked to."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_lightning.model.attention import (
    AttentionCall,
    CacheLayer,
    attention_by,
    cache_of,
    open_weights,
    sources_of_keys,
    weights_in,
)
from steer_lightning.testing import tiny_model

IDS = torch.tensor([[1, 10, 20, 30, 40], [1, 50, 60, 70, 80]])


def attend(call: AttentionCall) -> torch.Tensor:
    """Causal attention of the last tokens to all tokens."""
    new, every = call.query.shape[2], call.key.shape[2]
    seen = torch.ones(new, every).tril(every - new).bool()
    output = scaled_dot_product_attention(
        call.query, call.key, call.value, attn_mask=seen, scale=call.scale, enable_gqa=True
    )
    return output.transpose(1, 2)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_function_of_ones_own_gives_the_models_logits(architecture: str) -> None:
    model = tiny_model(architecture)
    before, names = model.config._attn_implementation, set(ALL_ATTENTION_FUNCTIONS)
    expected = model(IDS).logits
    with attention_by(model, attend):
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
    assert model.config._attn_implementation == before
    assert set(ALL_ATTENTION_FUNCTIONS) == names
    assert torch.equal(model(IDS).logits, expected)


def test_two_models_attend_each_by_its_own_and_an_error_ends_both() -> None:
    one, two, calls = tiny_model(), tiny_model("qwen2"), []

    def noted(name: str) -> Any:
        return lambda call: calls.append(name) or attend(call)

    with (
        suppress(KeyError),
        attention_by(one, noted("one")),
        attention_by(two, noted("two")),
    ):
        one(IDS, use_cache=False)
        two(IDS, use_cache=False)
        raise KeyError
    assert calls == ["one"] * 3 + ["two"] * 3, "once a layer"
    one(IDS)
    assert len(calls) == 6


class Growing(CacheLayer):
    """Keeps all keys and values."""

    def lazy_initialization(self, *_: Any) -> None:
        self.is_initialized = True

    def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if self.is_initialized:
            keys = torch.cat([self.keys, keys], 2)
            values = torch.cat([self.values, values], 2)
        self.is_initialized, self.keys, self.values = True, keys, values
        return keys, values


def test_a_cache_layer_serves_token_by_token() -> None:
    model = tiny_model()
    expected = model(IDS).logits
    cache = cache_of([Growing() for _ in range(3)])
    with attention_by(model, attend):
        for first, end in ((0, 2), (2, 3), (3, 5)):
            places = torch.arange(first, end)[None].expand(2, -1)
            part = model(IDS[:, first:end], position_ids=places, past_key_values=cache)
            torch.testing.assert_close(part.logits, expected[:, first:end])
    assert cache.layers[0].keys.shape == (2, 2, 5, 8)
    assert (cache.get_seq_length(), cache.layers[0].get_max_length()) == (0, -1)


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


@pytest.mark.parametrize("softcap", [None, 1e6])  # by torch's kernel, and with all scores in memory
@pytest.mark.parametrize("as_bias", [False, True])
def test_queries_see_more_keys_than_there_are_queries_by_hand(
    as_bias: bool, softcap: float | None
) -> None:
    """Two queries, three keys of equal scores: the first query sees two of them."""
    one, keys = torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 3, 1)
    values = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1)
    seen = torch.tensor([[True, True, False], [True, True, True]])
    mask = torch.where(seen, 0.0, -math.inf) if as_bias else seen
    found = call_with(one, softcap=softcap).over(one, keys, values, mask)
    assert found.flatten().tolist() == pytest.approx([1.5, 3.0])


def test_upper_layers_read_the_keys_of_the_last_layer_of_their_type() -> None:
    config = tiny_model("gemma4", layers=7).config
    config.num_kv_shared_layers = 3
    assert config.layer_types[:4] == ["full_attention", "sliding_attention"] * 2
    # the last one is of full attention, whatever is asked for
    assert sources_of_keys(config) == [0, 1, 2, 3, 2, 3, 2]
    assert sources_of_keys(tiny_model("gemma3").config) == [0, 1, 2]


def test_weights_are_open_within_the_block() -> None:
    model, seen = tiny_model(), []
    before, expected = model.config._attn_implementation, model(IDS).logits
    model.model.layers[1].self_attn.register_forward_hook(lambda m, x, y: seen.append(y))
    with suppress(KeyError), open_weights(model), torch.no_grad():
        torch.testing.assert_close(model(IDS[:1]).logits, expected[:1])
        raise KeyError
    assert model.config._attn_implementation == before
    model(IDS[:1])
    weights = weights_in(seen[0], 5)
    assert weights is not None
    assert weights.shape == (4, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 5))
    assert weights_in(seen[1], 5) is None, "this implementation returns none"


def test_what_is_no_weights() -> None:
    stream, even = torch.zeros(1, 2, 8), torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    found = weights_in((stream, even), 2)
    assert found is not None
    assert torch.equal(found, even[0])
    assert weights_in([stream, even / 2], 2) is not None, "a sink may take a part"
    assert weights_in((stream, even.bfloat16()), 2) is not None
    others = [
        stream,
        (stream,),
        (stream, None),
        (stream, even[0]),  # (H, T, T)
        (stream, even.expand(2, 1, 2, 2)),  # two texts
        (stream, even[..., :1]),  # not over the tokens
        (stream, even.flip(-1)),  # tokens that see what comes after them
        (stream, 2 * even),
        (stream, -even),
    ]
    assert [weights_in(output, 2) for output in others] == [None] * len(others)
