"""Bases, vectors, and how a user reads an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from steer_lightning import save_vectors
from steer_lightning.steering import attach
from steer_lightning.testing import ARCHITECTURES, VOCABULARY, byte_tokenizer, save_tiny

LAYERS, WIDTH = 3, 32
TEXT = "The answer is 12"


def edit_config(folder: str | Path, **changes: Any) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save_base(folder: Path, architecture: str = "llama", **changes: Any) -> str:
    save_tiny(folder, architecture)
    if architecture == "mistral":
        changes = {"sliding_window": None, **changes}
    edit_config(folder, **changes)
    return str(folder)


def make_vectors(path: Path, base: str, layers: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    vectors = torch.randn(len(layers), WIDTH)
    save_vectors(vectors, path, base_model=base, step=7, layers=layers, num_layers=LAYERS)
    return vectors


def read_as_users_do(base: str, vectors: Path, export: Callable[[Any], Any]) -> tuple[float, bool]:
    """Largest logit difference, and whether `generate` writes the same.

    `export` makes the model of the base, after the base has been steered.
    """
    model = tf.AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.tensor([byte_tokenizer()(TEXT)["input_ids"]])
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with torch.no_grad(), attach(model, vectors):
        ours, text = model(ids).logits, model.generate(ids, **options)
    other = export(model)
    with torch.no_grad():
        theirs, same = other(ids).logits, other.generate(input_ids=ids, **options)
    return float((ours - theirs).abs().max()), torch.equal(text, same)


HEAD_DIM = {"glm": {"head_dim": 8}, "gemma": {"head_dim": 8}}


def make_config(kind: str) -> Any:
    if kind in ARCHITECTURES:
        return ARCHITECTURES[kind](LAYERS, WIDTH)
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": WIDTH}
    shape |= {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2}
    return tf.AutoConfig.for_model(kind, **shape, pad_token_id=0, **HEAD_DIM.get(kind, {}))
