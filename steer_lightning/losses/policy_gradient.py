"""The paper's loss."""

from __future__ import annotations

from steer_lightning.types import LossInputs, LossOutput


class PolicyGradient:
    """loss = - mean_i [ A_i * sum_t log pi(y_{i,t} | x, y_{i,<t}) ].

    The mean is over all N completions of the batch: REINFORCE with summed, not averaged, token
    log-probabilities (arXiv 2505.18706). Assumes one update on policy for each batch of rollouts:
    no ratio, no clipping. Its value says little: advantages of a group sum to 0, so it hovers
    around 0 from the start; its gradient is what counts.
    """

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Loss of one micro-batch."""
        summed = (inputs.logprobs * inputs.mask).sum(1)
        return LossOutput(loss=-(inputs.advantages * summed).sum() / inputs.num_rows)
