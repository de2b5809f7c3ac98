"""A model that names no token which ends a text, and its questions."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.testing import byte_tokenizer, tiny_model
from steer_lightning.types import Problem


class Questions:
    """Four questions."""

    def load(self) -> list[Problem]:
        return [Problem(question=f"q{k}", answer=str(k)) for k in range(4)]


def save_without_eos(folder: Path) -> str:
    """Saves a tiny model and its tokenizer, neither of which has EOS; returns the folder."""
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
