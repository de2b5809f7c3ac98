"""The check that a model reads a padded batch as it reads each of its texts alone.

Some models count positions from the padding on, and recurrences may take the padding in.
"""

from __future__ import annotations

from collections.abc import Sequence
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

COMPLETION_LENGTHS = (7, 1, 4)
"""Numbers of tokens of made-up completions."""


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
    prompts = made_up_tokens(policy.model.config)
    lengths = [COMPLETION_LENGTHS[k % len(COMPLETION_LENGTHS)] for k in range(len(prompts))]
    completions = [list(prompt[:length]) for prompt, length in zip(prompts, lengths, strict=True)]
    found, other = (_read(policy, prompts, completions, pad) for pad in (policy.pad_token_id, 7))
    allowed = tolerance(policy)
    for prompt, completion, logprobs in zip(prompts, completions, found, strict=True):
        logits = plain_logits(policy, prompt, completion).float()
        gap = gap_of(logprobs, logprobs_of(logits, completion))
        if gap > allowed:
            return f"log-probabilities differ by {gap:.2g}"
    gap = max(float((one - two).abs().max()) for one, two in zip(found, other, strict=True))
    if gap > allowed_leak(policy, torch.cat(found)):
        return f"a text changes with the tokens of the padding, by {gap:.2g}"
    return None


def allowed_leak(policy: Any, logprobs: torch.Tensor) -> float:
    """Returns how much a text may change with what it must not see, in nats: usually not at all.

    Experts are an exception: how many tokens each of them reads changes the order of operations,
    and with it the last digits. These are fewer nats where all tokens are about equally likely.

    Args:
        policy: `Policy` whose base is loaded.
        logprobs: Log-probabilities of made-up texts, at least two.
    """
    if not any("experts" in name for name, _ in policy.model.named_modules()):
        return 0.0
    return tolerance(policy) / 10 * min(1.0, float(logprobs.std()))


def _read(
    policy: Any, prompts: Sequence[Sequence[int]], completions: Sequence[list[int]], pad: int
) -> list[torch.Tensor]:
    """Reads texts in one padded batch; returns the log-probabilities of each completion."""
    left = [torch.tensor(prompt).flip(0) for prompt in prompts]
    right = [torch.tensor(completion) for completion in completions]

    def padded(value: int) -> torch.Tensor:
        one, two = (
            pad_sequence(rows, batch_first=True, padding_value=value) for rows in (left, right)
        )
        return torch.cat([one.flip(1), two], 1).to(policy.device)

    width, mask = max(map(len, completions)), (padded(-1) >= 0).long()
    logits = policy.padded_logits(padded(pad), mask, width + 1).float()
    return [
        logprobs_of(row[: len(completion)], completion)
        for row, completion in zip(logits, completions, strict=True)
    ]
