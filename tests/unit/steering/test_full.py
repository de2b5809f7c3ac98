"""Full fine-tuning where weights are tied."""

from __future__ import annotations

import torch

from steer_lightning import attach
from steer_lightning.steering import FullFinetune
from steer_lightning.testing import tiny_model
from tests.unit.steering.helpers import IDS


def test_tied_weights_are_changed_once_and_everywhere() -> None:
    config = tiny_model("gemma3").config
    assert config.tie_word_embeddings
    model, steering = tiny_model("gemma3"), FullFinetune()
    with attach(model, steering):
        assert "lm_head.weight" not in steering.names
        change = dict(zip(steering.names, steering.changes, strict=True))[
            "model.embed_tokens.weight"
        ]
        change.data[7] = 0.1
        found = model(IDS).logits
    model.model.embed_tokens.weight.data[7] += 0.1
    torch.testing.assert_close(model(IDS).logits, found)
