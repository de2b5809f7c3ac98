"""The paper's loss."""

from __future__ import annotations

import torch

from steer_lightning.types import LossOutput


class PolicyGradient:
    """loss = - mean_i [ A_i * sum_t log pi(y_{i,t} | x, y_{i,<t}) ].

    The mean is over all N completions of the batch: REINFORCE with summed, not averaged, token
    log-probabilities (arXiv 2505.18706). Assumes one update on policy for each batch of rollouts:
    no ratio, no clipping. Its value says little: advantages of a group sum to 0, so it hovers
    around 0 from the start; its gradient is what counts.
    """

    def __call__(
        self, logprobs: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor, num_rows: int
    ) -> LossOutput:
        """Loss of one micro-batch.

        Args:
            logprobs: (n, T) float32, of the current policy.
            mask: (n, T) bool, True for tokens of the completion.
            advantages: (n,).
            num_rows: N, completions of the whole batch: losses of micro-batches add up to the
                batch's.

        Returns:
            The loss.
        """
        summed = (logprobs * mask).sum(1)
        return LossOutput(loss=-(advantages * summed).sum() / num_rows)
