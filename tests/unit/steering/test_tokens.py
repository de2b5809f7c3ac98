"""Roles of tokens, by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from steer_lightning import ConfigError
from steer_lightning.steering.tokens import column_roles, is_steered, roles_of_call, text_roles
from steer_lightning.training.packing import Packing
from tests.odd_places import odd_model

TOKENS = ["prompt", "completion", "last_prompt"]


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


def test_roles_by_column() -> None:
    assert column_roles(torch.arange(6), 4).tolist() == [[0, 0, 0, 1, 2, 2]]
    assert column_roles(torch.arange(2), 4).tolist() == [[0, 0]]  # a chunk of the prompt
    assert column_roles(torch.arange(-3, 0), 0).tolist() == [[0, 0, 1]]  # embeddings


@pytest.mark.parametrize("architecture", ["mamba", "falcon_mamba"])
def test_states_of_recurrent_layers_are_a_cache(architecture: str) -> None:
    ids = torch.tensor([[5, 6, 7]])
    cache = odd_model(architecture)(ids, use_cache=True).cache_params
    assert roles_of_call({"input_ids": ids[:, :1], "cache_params": cache}).tolist() == [[2]]
    assert roles_of_call({"input_ids": ids, "cache_params": None}).tolist() == [[0, 0, 1]]
    empty = type(cache)(config=odd_model(architecture).config)
    assert roles_of_call({"input_ids": ids, "cache_params": empty}).tolist() == [[0, 0, 1]]


def test_a_cache_that_does_not_tell_its_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokens: the cache .*, list, .*Call model\.generate"):
        roles_of_call({"input_ids": torch.zeros(1, 2), "state": [torch.zeros(1)]})
