"""The reference for faster ways to read texts: a plain pass over a single text.

Batches, padding, packing, caches and custom attention functions may not fit some model, and are
then wrong without an error. A single text, read by the model's own forward pass without padding and
without a cache, is what the authors of the model intended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from steer_lightning.model.precision import precision_of
from steer_lightning.model.rotary import switch_length

MOST_COMPARED = 128
"""Maximum number of tokens that are compared, at the end of a completion: with a large vocabulary,
the logits of more tokens would fill the memory. Windows and states matter most at the end."""

LONGEST_MADE_UP = 256
"""Longest length that matters for which texts are made up before the first step. For longer ones,
texts are made up when a run first has texts of that length."""
BEGINNING_MADE_UP = 18
"""Number of tokens that long made-up texts have in common: enough for them to be read only once."""

LENGTHS = "window|chunk|block_size|topk|local_attention|budget|extent|max_distance"
"""Pattern of the names of such lengths in configurations."""

TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.12, torch.float16: 0.04}
"""Largest accepted value of `gap_of`, in nats, by dtype of the base; results in 16 bits depend on
the order of operations."""

FOR_A_WHILE = 5e-3
"""Largest accepted value, in nats, if a base in 16 bits is checked in float32: numbers in its
recurrences have been rounded to 16 bits, such as the decays of MiniMax."""

LOOSER = 4
"""Factor on the accepted value in 16 bits if the same method is correct in float32: an error in 16
bits only would show in `mismatch`. Rounding may select other experts, which has moved random models
by 0.2 nats."""

FEWEST = 4
"""Number of tokens that a shorter completion is treated as having in a mean."""


def tolerance(policy: Any) -> float:
    """Returns the largest value of `gap_of` that rounding explains, in nats.

    Args:
        policy: `Policy` whose base is loaded.
    """
    precision = precision_of(policy)
    allowed = TOLERANCE.get(precision, TOLERANCE[torch.bfloat16])
    if not policy.fits_in_float32:
        return allowed
    return FOR_A_WHILE if precision == torch.float32 else LOOSER * allowed


def plain_logits(policy: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Reads one text; returns the logits that predict the last tokens of its completion.

    Args:
        policy: `Policy` that reads.
        prompt: Tokens of the prompt, at least one.
        completion: Tokens of the completion, at least one.

    Returns:
        Logits (T, V) in the dtype of the base; T is the number of tokens in the completion, but at
        most `MOST_COMPARED`.
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
    """Returns the difference of a completion's log-probabilities from a plain pass, in nats.

    In float32 this is the largest difference. In 16 bits it is the mean difference, because
    rounding may move single tokens far, especially if it changes the selected experts.

    Args:
        policy: `Policy` that has read the completion.
        found: Log-probabilities of its tokens, computed by a faster method.
        expected: Log-probabilities of its last T tokens from a plain pass, (T,) on the CPU.
        share: Share of the tokens to count, those with the smallest differences.

    Returns:
        Difference; infinite if a number is NaN.
    """
    gaps = (found[-len(expected) :].float().cpu() - expected).abs()
    gaps = gaps.nan_to_num(float("inf"), float("inf")).sort().values
    gaps = gaps[: int(share * (len(gaps) - 1)) + 1]
    if precision_of(policy) == torch.float32:
        return float(gaps[-1])
    return float(gaps.sum()) / max(len(gaps), FEWEST)


def lengths_that_matter(config: Any) -> list[int]:
    """Returns the lengths from which a model treats texts differently, ascending.

    These are its windows, chunks and blocks, according to its configuration.

    Args:
        config: Configuration of a transformers model.
    """
    named = vars(config.get_text_config()).items()
    numbers = {value for name, value in named if re.search(LENGTHS, name) and type(value) is int}
    return sorted(number for number in numbers if number > 1)


def made_up_tokens(
    config: Any, above: int = 0, up_to: int = LONGEST_MADE_UP
) -> list[tuple[int, ...]]:
    """Makes up texts of different lengths, on both sides of some lengths that matter.

    Long texts begin with the same tokens, as prompts with worked examples do. No text reaches a
    length at which rotary frequencies switch, not even with a few more tokens.

    Args:
        config: Configuration of a transformers model.
        above: Length above which lengths matter.
        up_to: Longest length that matters.

    Returns:
        Tokens of each text, an odd number of texts.
    """
    lengths = [5, 14, 9, BEGINNING_MADE_UP + 2, BEGINNING_MADE_UP + 5]
    for length in lengths_that_matter(config):
        if above < length <= up_to:
            # one whose completion crosses the length, and one beyond it
            lengths += [max(1, length - 2), length + 5]
    switch = switch_length(config)
    if switch is not None:
        lengths = [length for length in lengths if length + 8 <= switch[1]] or [1]
        lengths = lengths[: len(lengths) - 1 + len(lengths) % 2]
    vocabulary, generator = config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (sum(lengths),), generator=generator)
    texts = [tuple(row.tolist()) for row in torch.split(ids, lengths)]
    beginning = max(texts, key=len)[:BEGINNING_MADE_UP]
    return [
        text if len(text) <= BEGINNING_MADE_UP else beginning + text[BEGINNING_MADE_UP:]
        for text in texts
    ]
