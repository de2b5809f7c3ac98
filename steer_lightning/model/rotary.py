"""The interface to the rotary position embeddings of transformers.

These embeddings are computed, not loaded: a checkpoint does not contain them, and a model created
on torch's meta device has none. With the types `longrope` (Phi-3, Phi-4) and `dynamic`, a text that
exceeds a certain length has other frequencies, and so other probabilities for the same tokens.
transformers switches all rows of a call according to the longest one, and leaves keys in the cache
unchanged. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from steer_lightning.errors import ConfigError


def switch_length(config: Any) -> tuple[str, int] | None:
    """Returns the type of the frequencies and the length of the longest text before the switch.

    Args:
        config: Configuration of a transformers model.

    Returns:
        Type and length, or None if the frequencies are the same for all lengths.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer = [value for value in parameters.values() if isinstance(value, dict)]
    for found in by_layer or [parameters]:
        if found.get("rope_type") == "longrope":
            return "longrope", int(found["original_max_position_embeddings"])
        if found.get("rope_type") == "dynamic":
            return "dynamic", int(text.max_position_embeddings)
    return None


def check_switch(config: Any, prompts: Sequence[int], max_new_tokens: int, key: str) -> None:
    """Raises a ConfigError if texts can be on both sides of the switch.

    With `longrope`, all prompts may also be beyond the switch; `dynamic` frequencies change with
    each token there.

    Args:
        config: Configuration of a transformers model.
        prompts: Numbers of tokens of the prompts, at least one.
        max_new_tokens: Maximum number of tokens in a completion.
        key: Key of `max_new_tokens` in the configuration.
    """
    switch = switch_length(config)
    if switch is None:
        return
    kind, length = switch
    longest = max(prompts)
    if longest + max_new_tokens <= length or (kind == "longrope" and min(prompts) > length):
        return
    raise ConfigError(
        key,
        max_new_tokens,
        rule=f"lets texts grow beyond {length} tokens, where the base switches its rotary "
        f"frequencies ({kind}); the prompts have {min(prompts)} to {longest} tokens",
        why="The same tokens have other probabilities after the switch, so the update would not "
        "match what was sampled before it",
        fix=f"Set it to {max(1, length - longest)} or less, or lower data.max_prompt_tokens",
    )


def compute_rotary(model: Any, device: torch.device | str) -> None:
    """Computes the position embeddings of a model on the meta device.

    Args:
        model: Language model of the Llama form, changed in place.
        device: Device of the result.
    """
    rotary = model.get_submodule("model.rotary_emb")
    with torch.device(device):
        model.model.rotary_emb = type(rotary)(config=model.config)
