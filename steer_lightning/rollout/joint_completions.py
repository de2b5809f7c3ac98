"""The completions of several requests that are sampled in one flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import pad

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions, DrawnTokens
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.types import Rollouts

Outcome = Rollouts | Exception
"""The completions of a request, or the reason why there are none."""


class JointCompletions:
    """The N completions of a flight, numbered over all of its requests in their order.

    A request whose completions can't be sampled, since its logits are not finite or its
    `on_completion` raises, ends alone: its rows end at once, and the others go on untouched.

    Args:
        policies: Policy of each request; all share one base.
        requests: Requests, at least one.
        owners: Number of each request's experiment; default: the number of the request.

    Attributes:
        prompts: Prompts of all requests, in order.
        prompt_of: Number of the prompt that each completion answers.
        owner_of: Number of the experiment that each prompt belongs to.
        most_tokens: Largest number of tokens of a completion.
        broken: Completions that the last `sample` has ended with an error. Their keys and values
            may not be finite.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        requests: Sequence[Request],
        owners: Sequence[int] | None = None,
    ) -> None:
        self._parts = [
            Completions(policy, request) for policy, request in zip(policies, requests, strict=True)
        ]
        self.most_tokens = max(part.most_tokens for part in self._parts)
        self.prompts = [prompt for request in requests for prompt in request.prompts]
        sizes = [request.sampling.group_size for request in requests for _ in request.prompts]
        self.prompt_of = [number for number, size in enumerate(sizes) for _ in range(size)]
        owners = range(len(requests)) if owners is None else owners
        self.owner_of = [
            owner for owner, request in zip(owners, requests, strict=True) for _ in request.prompts
        ]
        device = policies[0].device
        counts = torch.tensor([len(part.prompt_of) for part in self._parts])
        self._first = (counts.cumsum(0) - counts).tolist()
        numbers = torch.arange(len(requests))
        self._part_of = numbers.repeat_interleave(counts).to(device)  # request of each row, (N,)
        self.broken: list[int] = []
        self._errors: dict[int, Exception] = {}
        self._drawn: list[tuple[DrawnTokens, torch.Tensor]] = []  # with the row of each completion
        kinds = [_kind(request.sampling) for request in requests]
        for kind in dict.fromkeys(map(str, kinds)):
            chosen = [k for k, other in enumerate(kinds) if str(other) == kind]
            drawn = _join([self._parts[k] for k in chosen])
            rows = torch.isin(self._part_of, torch.tensor(chosen, device=device))
            self._drawn.append((drawn, torch.where(rows, rows.cumsum(0) - 1, -1)))

    def has_failed(self, completion: int) -> bool:
        """Whether the request of a completion has ended with an error."""
        return bool(self._errors) and int(self._part_of[completion]) in self._errors

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the next token of n rows that have not ended; see `Completions.sample`."""
        if len(self._drawn) == 1:
            tokens, ended = self._drawn[0][0].draw(logits, rows, counts)
        else:
            tokens, ended = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
            for drawn, row_of in self._drawn:
                chosen = (row_of[rows] >= 0).nonzero().squeeze(1)
                if len(chosen):
                    own = row_of[rows[chosen]]
                    tokens[chosen], ended[chosen] = drawn.draw(logits[chosen], own, counts[chosen])
        if bool(ended.any()):
            self._hand_out(rows[ended])
        if self._errors:
            failed = torch.tensor(list(self._errors), device=rows.device)
            is_broken = torch.isin(self._part_of[rows], failed)
            self.broken = rows[is_broken].tolist()
            ended |= is_broken
        return tokens, ended

    def _hand_out(self, rows: torch.Tensor) -> None:
        parts = self._part_of[rows]
        for number in sorted(set(parts.tolist()) - self._errors.keys()):
            try:
                self._parts[number].hand_out(rows[parts == number] - self._first[number])
            except Exception as error:  # raised again where the request was made
                self._errors[number] = error

    def outcomes(self) -> list[Outcome]:
        """Returns the completions of each request, or its error; all rows must have ended."""
        return [
            self._errors.get(number) or part.rollouts() for number, part in enumerate(self._parts)
        ]


def _kind(sampling: Sampling) -> Sampling:
    """Returns the settings that rows must have in common to be drawn together."""
    return replace(sampling, group_size=1, max_new_tokens=1)


def _join(parts: Sequence[Completions]) -> DrawnTokens:
    """Puts the tokens of several requests into one table, in which each has its own rows."""
    width = max(part.most_tokens for part in parts)
    old = [part.drawn for part in parts]
    drawn = DrawnTokens(
        torch.cat([pad(x.uniforms, (0, width - x.uniforms.shape[1])) for x in old]),
        torch.cat([x.limits for x in old]),
        parts[0].policy,
        parts[0].sampling,
    )
    first = 0
    for part in parts:
        count = len(part.prompt_of)
        part.drawn = drawn.rows(slice(first, first + count))
        first += count
    return drawn
