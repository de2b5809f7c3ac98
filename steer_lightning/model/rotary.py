"""The interface to the position embeddings of transformers' Llama and its like.

They are computed, not loaded: a checkpoint does not hold them, and a model that was made on torch's
meta device has none. Tested with transformers 5.0 and 5.23.
"""

from __future__ import annotations

from typing import Any

import torch


def compute_rotary(model: Any, device: torch.device | str) -> None:
    """Computes the position embeddings of a model on the meta device.

    Args:
        model: Language model of the Llama form, changed in place.
        device: Device of the result.
    """
    rotary = model.get_submodule("model.rotary_emb")
    with torch.device(device):
        model.model.rotary_emb = type(rotary)(config=model.config)
