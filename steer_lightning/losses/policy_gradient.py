"""The policy-gradient loss, which combines an objective, an aggregation and additional terms."""

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
    """Weights log-probabilities by the advantage (Williams 1992; arXiv 2505.18706).

    `gain_{i,t} = A_i * log pi(y_{i,t} | x, y_{i,<t})`. Its gradient is that of the expected reward
    only on policy, so it is correct if an update is one optimizer step. For several steps, use
    `Clip`; as long as the policy has not moved, both have the same gradient.
    """

    uses_ratio = False

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T), without metrics."""
        return inputs.advantages[:, None] * inputs.logprobs, {}


class SequenceSum:
    """Sums over the tokens of a completion and averages over completions (arXiv 2505.18706).

    `w_{i,t} = 1 / N`. The sum has the gradient of `log pi(y | x)`, which makes it the exact policy
    gradient of the mean reward. Long completions have large gradients.
    """

    def weights(self, inputs: LossInputs) -> float:
        """Returns one weight for all tokens."""
        return 1 / inputs.num_rows


class PolicyGradient:
    """Maximises the weighted gains of the sampled tokens minus their costs.

    `loss = - sum_{i,t} w_{i,t} * (c_{i,t} * gain_{i,t} - sum_k cost^k_{i,t})`.

    The default is the paper's loss (arXiv 2505.18706). With `ScoreFunction` and `SequenceSum` the
    loss is `- mean_i [ A_i * sum_t log pi(y_{i,t} | x, y_{i,<t}) ]`, a mean over all N completions
    of the batch, in which the log-probabilities of a completion are summed and not averaged. This
    is REINFORCE, with one on-policy optimizer step per batch. The value of the loss says little,
    because the advantages of a group sum to 0 and the loss hovers around 0 from the start. Only its
    gradient matters.

    Args:
        objective: Gain of a token; default `ScoreFunction`. For several optimizer steps per batch,
            use `Clip`, or `SequenceClip` for a ratio of whole completions.
        aggregation: Weight w of a token; default `SequenceSum`. Others are `TokenMean`,
            `SequenceMean` and `ConstantLength`.
        correction: Factor c that corrects for a sampler whose probabilities differ from the
            trainer's, such as `TruncatedImportance`; null for none.
        terms: Costs to minimise in addition, such as `KLToBase` and `EntropyBonus`.
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
        self.needs_all_rows = bool(self.terms)  # a term has a gradient even if the advantage is 0
        self.needs_reference = any(needs_of(term).reference for term in self.terms)
        self.needs_entropy = any(needs_of(term).entropy for term in self.terms)
        self.uses_ratio = needs_of(self.objective).uses_ratio

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Returns the loss of one micro-batch."""
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
