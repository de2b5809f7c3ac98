"""The check that a live flight answers as plain passes of the steered base do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import Sampling, selfcheck
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import (
    Event,
    LiveRequest,
    Piece,
    TokenFacts,
    unheard,
)
from steer_lightning.steering import SiteVectors
from steer_lightning.types import Prompt, Rollouts

MARGIN = 16
"""Number of tokens by which made-up texts may be longer than a length that matters."""

LEAST_LENGTH = 32
"""Number of tokens that the shortest made-up prompts and their completions may have."""


def why_not(flight: LiveFlight, vectors: SiteVectors) -> str | None:
    """Answers made-up prompts in the flight, and compares the answers with plain passes.

    Half of the rows beside them are answered by the base alone.

    Args:
        flight: Flight that is empty.
        vectors: Vectors that steer the answers.

    Returns:
        None if they agree, else the reason why the model can't be answered with this way.
    """
    alone = Policy(flight.policy.base, steering=vectors)
    alone.tokenizer, alone.sharding = flight.policy.tokenizer, flight.policy.sharding
    flight.pause()
    alone.adopt(flight.policy.model)

    def answer(prompts: Sequence[Prompt], sampling: Sampling) -> Rollouts:
        alone.attachment.is_paused = True
        try:
            return _answer(flight, vectors, prompts, sampling)
        finally:
            flight.drop()  # leaves the model to the plain passes, also after an error
            alone.attachment.is_paused = False

    try:
        return selfcheck.why_not(alone, answer, (0, flight.max_length - MARGIN))
    finally:
        alone.attachment.remove()


def _answer(
    flight: LiveFlight, vectors: SiteVectors, prompts: Sequence[Prompt], sampling: Sampling
) -> Rollouts:
    size = sampling.group_size
    if flight.max_rows < 2 * size:  # else no other would fly beside the completions of a prompt
        size = 1
    alike = replace(sampling, group_size=size)
    pieces: list[list[Piece]] = [[] for _ in range(len(prompts) * sampling.group_size)]
    waiting = []
    for first in range(0, len(pieces), size):
        rows = pieces[first : first + size]

        def keep(event: Event, rows: list[list[Piece]] = rows) -> None:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Piece):
                rows[event.choice].append(event)

        for model, on_event in ((vectors, keep), (None, unheard)):
            request = LiveRequest(
                token_ids=prompts[first // sampling.group_size].token_ids,
                on_event=on_event,
                vectors=model,
                sampling=alike,
                number=first,
                num_alternatives=0,
            )
            waiting.append(request)
    while waiting or not flight.is_empty:
        while waiting and flight.has_room:
            if flight.take(waiting[0]):
                waiting.pop(0)
        flight.step()
    return _rollouts(prompts, sampling, pieces)


def _rollouts(
    prompts: Sequence[Prompt], sampling: Sampling, pieces: Sequence[Sequence[Piece]]
) -> Rollouts:
    drawn: list[list[TokenFacts]] = [[x for piece in row for x in piece.tokens] for row in pieces]
    lengths = torch.tensor([len(row) for row in drawn])
    width = int(lengths.max())
    rows = [[*row, *[TokenFacts(id=0, logprob=0.0)] * (width - len(row))] for row in drawn]
    return Rollouts(
        prompts=tuple(prompts),
        group_size=sampling.group_size,
        completion_ids=torch.tensor([[x.id for x in row] for row in rows]),
        completion_mask=torch.arange(width) < lengths[:, None],
        logprobs=torch.tensor([[x.logprob or 0.0 for x in row] for row in rows]),
        finished=torch.tensor([row[-1].finish == "stop" for row in pieces]),
        texts=tuple("".join(piece.text for piece in row) for row in pieces),
    )
