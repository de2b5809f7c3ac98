"""Reads the states of the base at chosen tokens of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import left_padded
from steer_lightning.steering import SteeringVectors, find_sites
from steer_lightning.steering.model_parts import one_logit, outputs_seen


@torch.no_grad()
def read_states(
    policy: Policy,
    texts: Sequence[Sequence[int]],
    marks: Sequence[Sequence[int]],
    max_tokens: int = 16384,
) -> torch.Tensor:
    """Returns the output of each steered site at the marked tokens; the vectors are off.

    Args:
        policy: Loaded policy with `SteeringVectors`, at whose layers and site states are read.
        texts: Tokens of n texts.
        marks: Places of the marked tokens in each text, n lists with M places in all.
        max_tokens: Maximum number of tokens in a forward pass, padding included.

    Returns:
        States in the order of the texts and of their marks, (L, M, D) float32 on the CPU.
    """
    steering = policy.steering
    assert isinstance(steering, SteeringVectors)
    places = find_sites(policy.layers, steering.layers, steering.site)
    limit = max_tokens if policy.takes_padding else 1  # one text at a time
    marked = [n for n in range(len(texts)) if marks[n]]
    found: dict[int, torch.Tensor] = {}  # (L, marks of a text, D), by text
    with policy.at_scale(0.0):
        for chosen in _batches(marked, texts, limit):
            sizes = [len(marks[n]) for n in chosen]
            states = _states(policy, places, [(texts[n], marks[n]) for n in chosen])
            found.update(zip(chosen, torch.split(states, sizes, 1), strict=True))
    return torch.cat([found[n] for n in marked], 1)


def _states(
    policy: Policy,
    places: Sequence[nn.Module],
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> torch.Tensor:
    """Returns the states (L, M, D) at the marks of some texts, which share a pass."""
    ids, mask = left_padded([text for text, _ in rows], policy.pad_token_id)
    width = ids.shape[1]
    row = [n for n, (_, marks) in enumerate(rows) for _ in marks]
    column = [width - len(text) + mark for text, marks in rows for mark in marks]
    found: dict[int, torch.Tensor] = {}

    def keep(place: int, stream: torch.Tensor) -> None:  # whole streams would fill the memory
        found[place] = stream[row, column].float().cpu()

    with outputs_seen(places, keep), one_logit(policy.model):
        policy.padded_logits(ids.to(policy.device), mask.to(policy.device), num_last=1)
    return torch.stack([found[place] for place in range(len(places))])


def _batches(
    marked: Sequence[int], texts: Sequence[Sequence[int]], max_tokens: int
) -> Iterator[list[int]]:
    """Yields texts that share a pass, longest first, so that padding is rare."""
    chosen: list[int] = []
    for n in sorted(marked, key=lambda n: -len(texts[n])):
        if chosen and len(texts[chosen[0]]) * (len(chosen) + 1) > max_tokens:
            yield chosen
            chosen = []
        chosen.append(n)
    if chosen:
        yield chosen
