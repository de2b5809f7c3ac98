"""The loss: an objective for each token, and how much each token counts; by default the paper's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.losses.base import (
    Aggregation,
    Correction,
    Objective,
    PerToken,
    Term,
    needs_of,
)
from steer_lightning.types import LossInputs, LossOutput


class ScoreFunction:
    """gain_{i,t} = A_i * log pi(y_{i,t} | x, y_{i,<t}) (Williams 1992; arXiv 2505.18706).

    Its gradient is that of the expected reward on policy alone: right for the one update that a
    batch of rollouts serves for. For several of them `Clip` takes its place; where the policy has
    not moved yet, both have the same gradient.
    """

    uses_ratio = False

    def gains(self, inputs: LossInputs) -> PerToken:
        """(n, T)."""
        return inputs.advantages[:, None] * inputs.logprobs, {}


class SequenceSum:
    """w_{i,t} = 1 / N: tokens are summed over a completion, completions averaged.

    The gradient of log pi(y | x), and so the exact policy gradient of the mean reward
    (arXiv 2505.18706). A long completion has a long gradient.
    """

    def weights(self, inputs: LossInputs) -> float:
        """The same for all tokens."""
        return 1 / inputs.num_rows


class PolicyGradient:
    """loss = - sum_{i,t} w_{i,t} * (c_{i,t} * gain_{i,t} - sum_k cost^k_{i,t}).

    By default the paper's (arXiv 2505.18706): with `ScoreFunction` and `SequenceSum` it is
    - mean_i [ A_i * sum_t log pi(y_{i,t} | x, y_{i,<t}) ], the mean over all N completions of the
    batch, log-probabilities summed and not averaged over a completion: REINFORCE, for one update on
    policy for each batch of rollouts. Its value says little: advantages of a group sum to 0, so it
    hovers around 0 from the start; its gradient is what counts.

    Args:
        objective: gain, what a token contributes; default `ScoreFunction`. For several updates of a
            batch `Clip`, or `SequenceClip` for a ratio of whole completions.
        aggregation: w, how much a token counts; default `SequenceSum`. Also `TokenMean`,
            `SequenceMean`, `ConstantLength`.
        correction: c, for a sampler that is not the trainer, `TruncatedImportance`; null for none.
        terms: cost, what else is made smaller: `KLToBase`, `EntropyBonus`.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        aggregation: Aggregation | None = None,
        correction: Correction | None = None,
        terms: list[Term] | None = None,
    ) -> None:
        self.objective: Objective = objective or ScoreFunction()
        self.aggregation: Aggregation = aggregation or SequenceSum()
        self.correction = correction
        self.terms: Sequence[Term] = terms or []
        self.needs_all_rows = bool(self.terms)  # their gradient is not 0 where the advantage is
        self.needs_reference = any(needs_of(term).reference for term in self.terms)
        self.needs_entropy = any(needs_of(term).entropy for term in self.terms)
        self.uses_ratio = needs_of(self.objective).uses_ratio

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Loss of one micro-batch."""
        gains: PerToken = self.objective.gains(inputs)
        total, report = gains[0], dict(gains[1])
        if self.correction is not None:
            factors: PerToken = self.correction.factors(inputs)
            total, report = total * factors[0], report | factors[1]
        for term in self.terms:
            costs: PerToken = term.costs(inputs)
            total, report = total - costs[0], report | costs[1]
        counted = torch.where(inputs.mask, total, torch.zeros_like(total))
        loss = -(self.aggregation.weights(inputs) * counted).sum()
        means = {
            name: (values * inputs.mask).sum() / inputs.num_tokens
            for name, values in report.items()
        }
        return LossOutput(loss=loss, metrics=means)
