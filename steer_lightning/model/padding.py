"""The check that a model reads the texts of a padded batch like single texts.

Some models count positions from the start of the padding, and recurrences may read the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from steer_lightning.model.plain_pass import (
    gap_of,
    logprobs_of,
    made_up_tokens,
    plain_logits,
    tolerance,
)
from steer_lightning.model.precision import checked_in_float32, misfits

COMPLETION_LENGTHS = (7, 1, 4)
"""Numbers of tokens of the made-up completions of each prompt."""

OTHER = 7
"""Token that replaces the padding, whose own number is seldom this small."""

EXPERTS_FACTOR = 4
"""A change must be this many times the noise of experts to count as a leak."""

LAST_BITS = 1e-6
"""Change of log-probabilities, in nats, that does not count as a leak in a model with experts: the
noise may come from only a few of the exchanged tokens."""


@torch.no_grad()
def why_not_padded(policy: Any) -> str | None:
    """Compares a padded batch of made-up texts with plain passes.

    Rounding hides a weak dependence on the padding from a comparison, especially in 16 bits. But
    the result must stay the same to the last bit if the padding tokens are replaced by others.

    Args:
        policy: `Policy` whose base is loaded.

    Returns:
        None if they agree, else the reason why batches can't be padded.
    """
    return checked_in_float32(policy, partial(_why_not_padded, policy))


def _why_not_padded(policy: Any) -> str | None:
    texts = made_up_tokens(policy.model.config)
    prompts = [prompt for prompt in texts for _ in COMPLETION_LENGTHS]
    completions = [list(prompt[:length]) for prompt in texts for length in COMPLETION_LENGTHS]
    pad = policy.pad_token_id
    read = partial(_read, policy, prompts, completions)
    with misfits() as errors:
        found = read(pad, pad)
    if errors:
        return errors[0]
    allowed = tolerance(policy)
    for prompt, completion, logprobs in zip(prompts, completions, found, strict=True):
        logits = plain_logits(policy, prompt, completion).float()
        gap = gap_of(policy, logprobs, logprobs_of(logits, completion))
        if gap > allowed:
            return f"log-probabilities differ by {gap:.2g}"

    def change(left: int, right: int) -> float:
        return float((torch.cat(found) - torch.cat(read(left, right))).abs().mean())

    gap = change(OTHER, OTHER)
    if leaks(policy.model, gap, lambda: change(pad, OTHER)):
        return f"a text changes with the tokens of the padding, by {gap:.2g}"
    return None


def leaks(model: torch.nn.Module, gap: float, noise: Callable[[], float]) -> bool:
    """Returns whether a text changes with tokens that it must not see.

    A text stays the same to the last bit, unless there are experts: the number of tokens of each
    expert changes the order of operations. All tokens count for that, including those after the
    text.

    Args:
        model: Language model.
        gap: Mean change of log-probabilities if tokens that must not be seen are exchanged.
        noise: Function that returns this change if only tokens after the text are exchanged.
    """
    has_experts = any("experts" in name for name, _ in model.named_modules())
    return gap > (max(LAST_BITS, EXPERTS_FACTOR * noise()) if has_experts and gap else 0.0)


def _read(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[list[int]],
    left: int,
    right: int,
) -> list[torch.Tensor]:
    """Reads texts in one padded batch; returns the log-probabilities of each completion."""
    backwards = [torch.tensor(prompt).flip(0) for prompt in prompts]
    forwards = [torch.tensor(completion) for completion in completions]

    def padded(left: int, right: int) -> torch.Tensor:
        one = pad_sequence(backwards, batch_first=True, padding_value=left).flip(1)
        two = pad_sequence(forwards, batch_first=True, padding_value=right)
        return torch.cat([one, two], 1).to(policy.device)

    width, mask = max(map(len, completions)), (padded(-1, -1) >= 0).long()
    logits = policy.padded_logits(padded(left, right), mask, width + 1).float()
    return [
        logprobs_of(row[: len(completion)], completion)
        for row, completion in zip(logits, completions, strict=True)
    ]
