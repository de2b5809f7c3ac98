"""The interface to the rotary position embeddings of transformers.

They are computed, not loaded: a checkpoint does not hold them, and a model that was made on torch's
meta device has none. With the types `longrope` (Phi-3, Phi-4) and `dynamic` a text has other
frequencies, and so other probabilities for the same tokens, once it is longer than a certain
length. transformers switches all rows of a call by the longest one, and leaves keys in the cache as
they were. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from steer_lightning.errors import ConfigError


def switch_length(config: Any) -> tuple[str, int] | None:
    """Returns the type of the frequencies and the longest text that keeps the first ones.

    Args:
        config: Configuration of a transformers model.

    Returns:
        None if the frequencies are the same for all lengths.
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

    With `longrope` all texts may also lie beyond it from their prompts on; `dynamic` frequencies
    change with each token there.

    Args:
        config: Configuration of a transformers model.
        prompts: Numbers of tokens of the prompts, at least one.
        max_new_tokens: Most tokens of a completion.
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
        rule=f"lets texts grow beyond {length} tokens, with prompts of {min(prompts)} to {longest} "
        f"tokens: there the base switches its rotary frequencies ({kind})",
        why="The same tokens have other probabilities on either side, so that what was sampled "
        "before the switch would not be what is learned from",
        fix=f"Set it to {max(1, length - longest)} or less, or data.max_prompt_tokens lower",
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
