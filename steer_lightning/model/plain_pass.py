"""The reference that faster ways to read texts are compared with: a plain pass over a single text.

Batches, padding, packing, caches and attention functions of our own may each meet a model that they
do not fit. They are then wrong without an error. One text alone, read by the model's own forward
pass, without padding and without a cache, is what the authors of a model mean by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from steer_lightning.model.precision import precision_of
from steer_lightning.model.rotary import switch_length

MOST_COMPARED = 128
"""Most tokens at the end of a completion that are compared: logits of more would fill the memory
where the vocabulary is large. Windows and states matter most at the end."""

LONGEST_MADE_UP = 256
"""Longest length that matters for which texts are made up before the first step; for longer ones
they are made up when a run first meets texts that long."""

LENGTHS = "window|chunk|block_size|topk|local_attention|budget|extent|max_distance"
"""Pattern of the names under which configurations give such lengths."""

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.12, torch.float16: 0.04}
"""Largest figure of `gap_of` that is let pass, in nats, by dtype of the base; 16-bit results depend
on the order of operations."""

FOR_A_WHILE = 5e-3
"""Largest figure that is let pass, in nats, when a base in 16 bits is checked in float32: numbers
that its recurrences keep have been rounded to 16 bits, as MiniMax's decays."""

LOOSER = 4
"""How many times that is let pass in 16 bits where the same way is right in float32: what is wrong
with it in 16 bits alone shows in `mismatch`. Rounding may choose other experts, by which random
models have moved by 0.2 nats."""

FEWEST = 4
"""Number of tokens as of which a shorter completion counts in a mean."""


def tolerance(policy: Any) -> float:
    """Returns the largest figure of `gap_of` that rounding explains, in nats.

    Args:
        policy: `Policy` whose base is loaded.
    """
    precision = precision_of(policy)
    allowed = TOLERANCE.get(precision, TOLERANCE[torch.bfloat16])
    if not policy.fits_in_float32:
        return allowed
    return FOR_A_WHILE if precision == torch.float32 else LOOSER * allowed


def plain_logits(policy: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Reads one text, and returns the logits that predict the last tokens of its completion.

    Args:
        policy: `Policy` that reads.
        prompt: Tokens of the prompt, at least one.
        completion: Tokens of the completion, at least one.

    Returns:
        Logits (T, V) in the base's dtype; T is the number of the completion's tokens, but at most
        `MOST_COMPARED`.
    """
    ids = torch.tensor([[*prompt, *completion]], device=policy.device)
    count = min(len(completion), MOST_COMPARED)
    with policy.with_text_roles(ids, len(completion)):
        output = policy.model(input_ids=ids, use_cache=False, logits_to_keep=count + 1)
    logits: torch.Tensor = output.logits[0, -count - 1 : -1]
    return logits


def logprobs_of(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
    """Returns the log-probabilities of the last tokens of a completion.

    Args:
        logits: Logits (T, V) float32 that predict its last T tokens.
        completion: Tokens of the completion.

    Returns:
        Log-probabilities in nats, (T,) float32 on the CPU.
    """
    chosen = torch.tensor(completion[-len(logits) :], device=logits.device)[:, None]
    return logits.log_softmax(-1).gather(1, chosen)[:, 0].cpu()


def gap_of(policy: Any, found: torch.Tensor, expected: torch.Tensor, share: float = 1.0) -> float:
    """Returns how far log-probabilities of a completion are from those of a plain pass, in nats.

    In float32 it is the largest difference. In 16 bits it is the mean difference, since rounding
    may move single tokens far, above all where they choose experts.

    Args:
        policy: `Policy` that has read the completion.
        found: Log-probabilities of its tokens, found in a faster way.
        expected: Those of its last T tokens by a plain pass, (T,) on the CPU.
        share: Share of the tokens that count, those with the smallest differences.

    Returns:
        The figure, which is infinite if a number is NaN.
    """
    gaps = (found[-len(expected) :].float().cpu() - expected).abs()
    gaps = gaps.nan_to_num(float("inf"), float("inf")).sort().values
    gaps = gaps[: int(share * (len(gaps) - 1)) + 1]
    if precision_of(policy) == torch.float32:
        return float(gaps[-1])
    return float(gaps.sum()) / max(len(gaps), FEWEST)


def lengths_that_matter(config: Any) -> list[int]:
    """Returns the lengths at which a model begins to treat texts otherwise, ascending.

    They are its windows, chunks and blocks, as its configuration names them.

    Args:
        config: Configuration of a transformers model.
    """
    named = vars(config.get_text_config()).items()
    numbers = {value for name, value in named if re.search(LENGTHS, name) and type(value) is int}
    return sorted(number for number in numbers if number > 1)


def made_up_tokens(
    config: Any, above: int = 0, up_to: int = LONGEST_MADE_UP
) -> list[tuple[int, ...]]:
    """Makes up texts of unlike lengths, on both sides of some lengths that matter.

    None reaches a length at which rotary frequencies switch, not even with a few further tokens.

    Args:
        config: Configuration of a transformers model.
        above: Length above which lengths matter.
        up_to: Longest length that matters.

    Returns:
        Tokens of each text, an odd number of texts.
    """
    lengths = [5, 14, 9]
    for length in lengths_that_matter(config):
        if above < length <= up_to:
            lengths += [max(1, length - 2), length + 5]  # completions cross it; or it is beyond
    switch = switch_length(config)
    if switch is not None:
        lengths = [length for length in lengths if length + 8 <= switch[1]] or [1]
    vocabulary, generator = config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (sum(lengths),), generator=generator)
    return [tuple(row.tolist()) for row in torch.split(ids, lengths)]
