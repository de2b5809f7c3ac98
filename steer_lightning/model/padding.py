"""The check that a model reads a padded batch as it reads each of its texts alone.

Some models count positions from the padding on, and recurrences may take the padding in.
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
"""Token that takes the place of the padding, which is seldom a number so small."""

EXPERTS_FACTOR = 4
"""How many times the noise of experts a change must be to be a leak."""

LAST_BITS = 1e-6
"""Change of log-probabilities, in nats, that is no leak where there are experts: few of the
exchanged tokens may have made the noise."""


@torch.no_grad()
def why_not_padded(policy: Any) -> str | None:
    """Compares a padded batch of made-up texts with plain passes.

    Rounding hides a weak dependence on the padding from a comparison, above all in 16 bits. But the
    result is the same to the last bit if the tokens that are padding are exchanged for others.

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
    """Tells whether a text changes with what it must not see.

    It stays the same to the last bit, unless there are experts: how many tokens each of them reads
    changes the order of operations. That is so for all tokens, those after the text included.

    Args:
        model: Language model.
        gap: Mean change of log-probabilities when tokens are exchanged that must not be seen.
        noise: Function that returns it when only tokens after the text are exchanged.
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
