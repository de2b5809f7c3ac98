"""The tokens to steer: all, those of the prompt or the completion, or the last prompt token.

A token is steered at the position at which it enters the model. The first token of the completion
is predicted at the position of the last token of the prompt. So `completion` leaves the
distribution of that first token unchanged, while `last_prompt` acts on it and, through the keys and
values of its position, on all later tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from steer_lightning.steering.model_parts import has_cached_tokens

Tokens = Literal["all", "prompt", "completion", "last_prompt"]

PROMPT, LAST_PROMPT, COMPLETION = 0, 1, 2
"""Roles of tokens in a forward pass; padding may have any role."""

ROLES: dict[str, tuple[int, ...]] = {
    "prompt": (PROMPT, LAST_PROMPT),
    "completion": (COMPLETION,),
    "last_prompt": (LAST_PROMPT,),
}


def is_steered(roles: torch.Tensor, tokens: str) -> torch.Tensor:
    """Turns roles (rows, T) into a mask of the steered tokens, (rows, T, 1) bool."""
    found = torch.stack([roles == role for role in ROLES[tokens]])
    return found.any(0).unsqueeze(-1)


def text_roles(ids: torch.Tensor, num_completion: int | None) -> torch.Tensor:
    """Returns the roles of tokens (rows, T): a left-padded prompt, then a right-padded completion.

    Either of the two may be missing. With None, the tokens are the beginning of a prompt.
    """
    roles = torch.full(ids.shape, PROMPT, device=ids.device)
    if num_completion is None:
        return roles
    border = ids.shape[1] - num_completion
    roles[:, border - 1] = LAST_PROMPT
    roles[:, border:] = COMPLETION
    return roles


def column_roles(columns: torch.Tensor, border: int) -> torch.Tensor:
    """Returns the roles of some columns of a text, (1, T).

    Args:
        columns: Numbers of the columns, (T,).
        border: Number of the first column of the completion; the column before is the last of the
            prompt.
    """
    roles = torch.full_like(columns, PROMPT)
    roles[columns >= border] = COMPLETION
    roles[columns == border - 1] = LAST_PROMPT
    return roles[None]


def roles_of_call(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Infers the roles in a forward pass outside `generate`, from its arguments only.

    Tokens that are read while the cache is empty are the prompt; later tokens are the completion.

    Args:
        inputs: Arguments of the model's forward pass, by name.

    Raises:
        ConfigError: If there is a cache and it does not say whether it is empty.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    ids = inputs["inputs_embeds"][..., 0] if ids is None else ids
    if has_cached_tokens(inputs):
        return torch.full(ids.shape, COMPLETION, device=ids.device)
    roles = torch.full(ids.shape, PROMPT, device=ids.device)
    last = torch.full((ids.shape[0],), ids.shape[1] - 1, device=ids.device)
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:  # padding may be on either side
        last = last - mask.flip(1).long().argmax(1)
    return roles.scatter_(1, last[:, None], LAST_PROMPT)
