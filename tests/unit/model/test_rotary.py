"""Position embeddings of a model that was made without values."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from steer_lightning.model.rotary import compute_rotary
from steer_lightning.testing import tiny_model


def test_position_embeddings_are_those_of_the_loaded_model() -> None:
    whole = tiny_model("llama")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(whole.config)
    assert empty.model.rotary_emb.inv_freq.is_meta
    compute_rotary(empty, "cpu")
    assert torch.equal(empty.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)
