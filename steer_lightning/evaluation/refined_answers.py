"""Answers whose tokens are refined by gradients; `refinement` has the method and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from steer_lightning.evaluation.continued import (
    GrowingRow,
    completions_of_rows,
    continue_up_to,
    first_part,
)
from steer_lightning.evaluation.refinement import Refinement, changed_tokens, drawn_logits
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.model.token_slopes import Reading, read_completion, token_slopes
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.rollout.completions import row_uniforms
from steer_lightning.types import Completion, Prompt


@dataclass(frozen=True, kw_only=True)
class Refined:
    """A refined completion, and what it has cost.

    Attributes:
        completion: The completion.
        plain_score: Objective S of the completion that was sampled first, in nats.
        score: Objective S of the completion, in nats, at least `plain_score`.
        forward_tokens: Number of tokens that went through the base, prompts included: those that
            were read once more for each continuation, for each score and for each slope, and those
            that were sampled beyond the limit of this completion, as continuations share a call.
        backward_tokens: Number of tokens that went back through the base.
    """

    completion: Completion
    plain_score: float
    score: float
    forward_tokens: int
    backward_tokens: int


@dataclass(kw_only=True)
class _Draft:
    """A completion while it is refined."""

    row: GrowingRow
    plain_score: float = 0.0
    score: float = 0.0
    changes: list[tuple[int, int]] = field(default_factory=list)
    """Places at which another token could stand, ascending, with these tokens."""
    forward_tokens: int = 0
    backward_tokens: int = 0

    def changed(self, ends: set[int]) -> GrowingRow:
        """Returns the completion up to the next change, which is taken from the list."""
        place, token = self.changes.pop(0)
        ids = [*self.row.ids[:place], token]
        return replace(self.row, ids=ids, finished=token in ends)


def answer_refined(
    policy: Policy,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    refinement: Refinement,
    seed: int,
) -> list[Refined]:
    """Answers prompts, and refines each answer.

    An answer does not depend on those beside it; what it costs may, see `Refined.forward_tokens`.

    Args:
        policy: Loaded policy of the engine.
        engine: Engine that answers.
        prompts: The B problems, at least one.
        sampling: Settings for answering the problems, with G completions each.
        refinement: Settings of the refinement.
        seed: Seed of the run.

    Returns:
        The B * G completions.
    """
    refiner = _Refiner(policy, sampling, refinement, seed)
    drafts = [_Draft(row=row) for row in first_part(engine, prompts, sampling, seed)]
    ends = {*policy.eos_token_ids, *sampling.eos_token_ids}
    for draft in drafts:
        draft.forward_tokens += draft.row.length
        draft.plain_score = draft.score = refiner.score(draft, draft.row)
        refiner.find_changes(draft, first=0)
    for turn in range(refinement.max_rollouts):
        tried = [(draft, draft.changed(ends)) for draft in drafts if draft.changes]
        kept = [len(row.ids) for _, row in tried]
        limit, step = sampling.max_new_tokens, EVALUATION_STEP - 1 - turn
        going = [(draft, row) for draft, row in tried if not row.finished and len(row.ids) < limit]
        rows = [row for _, row in going]
        lengths = continue_up_to(limit, policy, engine, rows, sampling, seed, step)
        for (draft, _), length in zip(going, lengths, strict=True):
            draft.forward_tokens += length
        for (draft, row), first in zip(tried, kept, strict=True):
            score = refiner.score(draft, row)
            if score > draft.score:
                draft.row, draft.score = row, score
                if turn + 1 < refinement.max_rollouts:
                    refiner.find_changes(draft, first)
    completions = completions_of_rows(policy, [draft.row for draft in drafts])
    return [
        Refined(
            completion=completion,
            plain_score=draft.plain_score,
            score=draft.score,
            forward_tokens=draft.forward_tokens,
            backward_tokens=draft.backward_tokens,
        )
        for draft, completion in zip(drafts, completions, strict=True)
    ]


class _Refiner:
    """Scores completions and finds changes by the gradient, one completion at a time."""

    def __init__(
        self, policy: Policy, sampling: Sampling, refinement: Refinement, seed: int
    ) -> None:
        self.policy, self.sampling, self.refinement, self.seed = policy, sampling, refinement, seed
        weight, scale = refinement.reward_weight, policy.attachment.scale
        self.terms = [(scale, 1.0)]
        """Scales of the steering, and the weights of their log-likelihoods in the objective."""
        if weight and scale:
            self.terms = [(scale, 1 + weight), (0.0, -weight)]

    def score(self, draft: _Draft, row: GrowingRow) -> float:
        """Returns the objective S of a completion, and adds its cost to the draft."""
        total = 0.0
        for scale, weight in self.terms:
            with self.policy.at_scale(scale):
                total += weight * self._read(row, with_pulls=False).logprob
        draft.forward_tokens += len(self.terms) * row.length
        return total

    def find_changes(self, draft: _Draft, first: int) -> None:
        """Sets the changes of a draft that the gradient finds from a place on."""
        draft.changes = []
        if not self.refinement.steps:
            return
        logits, places, slopes = self._slopes(draft.row, first)
        draft.forward_tokens += len(self.terms) * draft.row.length
        draft.backward_tokens += len(self.terms) * draft.row.length
        if not len(places):
            return
        tokens = torch.tensor(draft.row.ids, device=places.device)[places]
        uniforms = [
            row_uniforms(self.seed, place, [draft.row.number], 1, logits.shape[-1])
            for place in places.tolist()
        ]
        drawn = drawn_logits(logits, tokens, torch.cat(uniforms), self.sampling)
        found = changed_tokens(drawn, slopes, tokens, self.refinement)
        moves = found != tokens
        draft.changes = list(zip(places[moves].tolist(), found[moves].tolist(), strict=True))

    def _slopes(
        self, row: GrowingRow, first: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns logits (Q, V), places (Q,) and slopes (Q, V) of the tokens that are not certain.

        They are the tokens from `first` on for which the steered model, at temperature 1 and
        without truncation, gives no token a larger probability than `max_confidence`.
        """
        parts: list[torch.Tensor] = []
        for scale, weight in self.terms:  # the first is the model that samples
            with self.policy.at_scale(scale):
                reading = self._read(row, with_pulls=True)
                if not parts:
                    logits = reading.logits
                    is_open = logits.softmax(-1).amax(-1) <= self.refinement.max_confidence
                    is_open[:first] = False
                    places = is_open.nonzero()[:, 0]
                parts.append(weight * token_slopes(self.policy, reading, places))
        return logits[places], places, torch.stack(parts).sum(0)

    def _read(self, row: GrowingRow, with_pulls: bool) -> Reading:
        return read_completion(self.policy, row.prompt.token_ids, row.ids, with_pulls)
