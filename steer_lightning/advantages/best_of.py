"""Best of n: weights for the best right completions of a group, which are then imitated."""

from __future__ import annotations

import math

import torch

from steer_lightning.advantages.scored import split_scored
from steer_lightning.errors import ConfigError


class BestOf:
    """Chooses the best right completions of a group, and gives all others no weight.

    `A_i = G / k` for the k chosen completions of a group of G, and 0 for the others. With the
    objective `Likelihood`, the loss is the negative log-likelihood of the chosen completions, a
    mean over all prompts in which each prompt with a right completion counts once. This is
    rejection sampling with fine-tuning on what is left (RAFT, arXiv 2304.06767), or expert
    iteration, since each step chooses among completions of the current policy.

    A completion can be chosen if its reward is at least `least`, if it has at most `max_tokens`
    tokens, and if it is feasible: the mean log-probability of its tokens under the policy that
    sampled it is at least `min_logprob`. DART (arXiv 2505.20700) imitates the steps of an expert
    only where the policy can follow them; here all completions are the policy's own, and those that
    it reached by luck are left out. Of the others, the `num_best` with the largest reward are
    chosen, the shorter one of equal rewards, and the earlier one of equal lengths.

    The estimator assumes rewards of a verifier, 1 for a right completion. Wrong completions teach
    nothing, in contrast to `RLOO`, and neither does the number of right ones. A group in which none
    can be chosen has advantage 0. Unscored completions (NaN) are never chosen.

    Args:
        num_best: Largest number of completions to choose in a group.
        least: Smallest reward of a completion that can be chosen.
        max_tokens: Largest number of tokens of a completion that can be chosen; null for any.
        min_logprob: Smallest mean log-probability of its tokens, in nats; null for any.

    Attributes:
        reads_completions: Whether lengths and log-probabilities are read along with the rewards.
        non_negative_from: Smallest reward from which on no advantage is negative.

    Raises:
        ConfigError: If a value is out of range.
    """

    reads_completions = True
    non_negative_from = -math.inf  # whatever the rewards

    def __init__(
        self,
        num_best: int = 1,
        least: float = 1.0,
        max_tokens: int | None = None,
        min_logprob: float | None = None,
    ) -> None:
        rules = {
            "num_best": (num_best, num_best >= 1, "must be at least 1"),
            "least": (least, least > 0, "must be above 0, the reward of a wrong completion"),
            "max_tokens": (
                max_tokens,
                max_tokens is None or max_tokens >= 1,
                "must be at least 1, or null",
            ),
            "min_logprob": (
                min_logprob,
                min_logprob is None or min_logprob < 0,
                "must be below 0, as log-probabilities are, or null",
            ),
        }
        for key, (value, holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"BestOf.{key}", value, rule=rule)
        self.num_best, self.least = num_best, least
        self.max_tokens, self.min_logprob = max_tokens, min_logprob

    def __call__(
        self,
        rewards: torch.Tensor,
        *,
        num_tokens: torch.Tensor | None = None,  # a further argument of a protocol has a default
        logprob_sums: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the weights of a batch.

        Args:
            rewards: Rewards (B, G), float, NaN where a completion could not be scored.
            num_tokens: Number of tokens of each completion, (B, G) int64.
            logprob_sums: Log-probability of each completion in nats, (B, G) float64.

        Returns:
            The weights (B, G), float, at least 0.

        Raises:
            TypeError: If lengths or log-probabilities are left out.
        """
        if num_tokens is None or logprob_sums is None:
            raise TypeError("BestOf needs num_tokens and logprob_sums")
        values, scored = split_scored(rewards)
        allowed = scored & (values >= self.least)
        if self.max_tokens is not None:
            allowed &= num_tokens <= self.max_tokens
        if self.min_logprob is not None:
            allowed &= logprob_sums / num_tokens.clamp(min=1) >= self.min_logprob
        order = torch.arange(rewards.shape[1]).expand_as(num_tokens)
        for key in (num_tokens, -values, ~allowed):  # each sort keeps the order of equal ones
            order = order.gather(1, key.gather(1, order).sort(dim=1, stable=True).indices)
        first = torch.zeros_like(allowed).scatter(1, order[:, : self.num_best], True)
        chosen = first & allowed
        weights = rewards.shape[1] / chosen.sum(1, keepdim=True).clamp(min=1)
        return torch.where(chosen, weights, 0.0).to(values.dtype)
