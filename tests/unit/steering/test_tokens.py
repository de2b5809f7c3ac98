"""Roles of tokens, by hand."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from steer_lightning.steering.tokens import is_steered, roles_of_call, text_roles
from steer_lightning.training.packing import Packing

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
