"""The completions of several requests that are sampled in one flight."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import Completions
from steer_lightning.rollout.request import Request
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
        counts = torch.tensor(
            [len(request.prompts) * request.sampling.group_size for request in requests]
        )
        part_of = torch.arange(len(requests)).repeat_interleave(counts)
        self._part_of = part_of.to(policies[0].device)  # number of each completion's request, (N,)
        self._first = (counts.cumsum(0) - counts).tolist()
        self._errors: dict[int, Exception] = {}

    def has_failed(self, completion: int) -> bool:
        """Whether the request of a completion has ended with an error."""
        return bool(self._errors) and int(self._part_of[completion]) in self._errors

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the next token of n rows that have not ended; see `Completions.sample`."""
        tokens, ended = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        part_of = self._part_of[rows]
        for number, part in enumerate(self._parts):
            chosen = (part_of == number).nonzero().squeeze(1)
            if not len(chosen) or number in self._errors:
                continue
            try:
                tokens[chosen], ended[chosen] = part.sample(
                    logits[chosen], rows[chosen] - self._first[number], counts[chosen]
                )
            except Exception as error:  # raised again where the request was made
                self._errors[number] = error
        return tokens, ended

    def outcomes(self) -> list[Outcome]:
        """Returns the completions of each request, or its error; all rows must have ended."""
        return [
            self._errors.get(number) or part.rollouts() for number, part in enumerate(self._parts)
        ]
