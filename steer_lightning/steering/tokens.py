"""The choice of steered tokens: those of the prompt, of the completion, or the prompt's last one.

A token counts at the position at which it enters the model. The first token of the completion is
predicted at the position of the prompt's last token. So `completion` leaves the distribution of
that first token unchanged, while `last_prompt` acts on it and, through the keys and values of its
position, on all tokens that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from steer_lightning.errors import UNKNOWN, ConfigError

Tokens = Literal["all", "prompt", "completion", "last_prompt"]

PROMPT, LAST_PROMPT, COMPLETION = 0, 1, 2
"""Roles of tokens in a forward pass; padding may have any of them."""

ROLES: dict[str, tuple[int, ...]] = {
    "prompt": (PROMPT, LAST_PROMPT),
    "completion": (COMPLETION,),
    "last_prompt": (LAST_PROMPT,),
}

CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states", "cache")
"""Names of the argument that holds what a model has read before."""


def is_steered(roles: torch.Tensor, tokens: str) -> torch.Tensor:
    """Turns roles (rows, T) into a mask of the steered tokens, (rows, T, 1) bool."""
    found = torch.stack([roles == role for role in ROLES[tokens]])
    return found.any(0).unsqueeze(-1)


def text_roles(ids: torch.Tensor, num_completion: int) -> torch.Tensor:
    """Returns the roles of tokens (rows, T): a left-padded prompt, then a right-padded completion.

    Either of them may be missing.
    """
    roles = torch.full(ids.shape, PROMPT, device=ids.device)
    border = ids.shape[1] - num_completion
    roles[:, border - 1] = LAST_PROMPT
    roles[:, border:] = COMPLETION
    return roles


def column_roles(columns: torch.Tensor, border: int) -> torch.Tensor:
    """Returns the roles of some columns of a text, (1, T).

    Args:
        columns: Numbers of the columns, (T,).
        border: Number of the completion's first column; the one before is the prompt's last.
    """
    roles = torch.full_like(columns, PROMPT)
    roles[columns >= border] = COMPLETION
    roles[columns == border - 1] = LAST_PROMPT
    return roles[None]


def roles_of_call(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Infers the roles in a forward pass of which nothing else is known, one outside `generate`.

    The tokens read while the cache is empty are the prompt; those that follow are the completion.

    Args:
        inputs: Arguments of the model's forward pass, by name.

    Raises:
        ConfigError: If there is a cache of which it is not known whether it is empty.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    ids = inputs["inputs_embeds"][..., 0] if ids is None else ids
    if any(_is_filled(inputs[name]) for name in CACHES if inputs.get(name) is not None):
        return torch.full(ids.shape, COMPLETION, device=ids.device)
    roles = torch.full(ids.shape, PROMPT, device=ids.device)
    last = torch.full((ids.shape[0],), ids.shape[1] - 1, device=ids.device)
    if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:  # padding may be on either side
        last = last - mask.flip(1).long().argmax(1)
    return roles.scatter_(1, last[:, None], LAST_PROMPT)


def _is_filled(cache: Any) -> bool:
    """Whether a cache holds tokens; those of recurrent layers have states instead of a length."""
    for method in ("get_seq_length", "has_previous_state"):
        try:
            return int(getattr(cache, method)()) > 0
        except (AttributeError, ValueError):  # of another kind of layer
            continue
    raise ConfigError(
        "model.steering.tokens",
        UNKNOWN,
        rule=f"the cache of this pass, {type(cache).__name__}, does not tell whether it is empty",
        why="What is read into an empty cache is the prompt, and what follows is the completion",
        fix="Call model.generate, which tells them apart, or set model.steering.tokens: all",
    )
