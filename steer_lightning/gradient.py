"""The gradient of a batch of rollouts, a micro-batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.losses import Loss, token_logprobs
from steer_lightning.microbatches import MicroBatch, micro_batches
from steer_lightning.policy import Policy
from steer_lightning.types import LossInputs, LossOutput, Rollouts


@dataclass(frozen=True, kw_only=True)
class BatchGradient:
    """Accumulates the gradient of the vectors over micro-batches.

    Attributes:
        loss: From `LossInputs` to a `LossOutput`.
        temperature: Of the sampled distribution.
        max_tokens: Most tokens of a micro-batch, padding included.
        activation_checkpointing: Recomputes activations in the backward pass.
    """

    loss: Loss
    temperature: float
    max_tokens: int
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raises a ConfigError for a budget that holds no token."""
        if self.max_tokens < 1:
            raise ConfigError(
                "model.tokens_per_micro_batch", self.max_tokens, rule="must be at least 1"
            )

    def accumulate(
        self,
        policy: Policy,
        rollouts: Rollouts,
        advantages: torch.Tensor,
        backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    ) -> dict[str, float]:
        """Leaves the batch's gradient in the vectors' `.grad`.

        Args:
            policy: Whose vectors are trained.
            rollouts: N completions.
            advantages: (B, G).
            backward: Called with each micro-batch's loss.

        Returns:
            The loss as `loss`, and the loss's own metrics, added up over the micro-batches.
        """
        flat = advantages.flatten()
        weight = policy.steering.weight
        weight.grad = torch.zeros_like(weight)
        # a completion with advantage 0 has policy gradient 0, exactly
        chosen = torch.ones_like(flat) if getattr(self.loss, "needs_all_rows", False) else flat
        rows = chosen.nonzero().squeeze(1)
        totals = {"loss": 0.0}
        num_tokens = int(rollouts.num_tokens.sum())
        for part in micro_batches(rollouts, rows, self.max_tokens, policy.pad_token_id):
            with policy.checkpointed(self.activation_checkpointing):
                output = self._loss(policy, part, flat, num_tokens)
                backward(output.loss)
            for name, value in {"loss": output.loss, **output.metrics}.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
        return totals

    def _loss(
        self, policy: Policy, part: MicroBatch, advantages: torch.Tensor, num_tokens: int
    ) -> LossOutput:
        device = policy.device
        tokens = part.completion_ids.to(device)
        width = tokens.shape[1] + 1
        logits = policy.logits(part.ids.to(device), part.mask.to(device), width)[:, :-1]
        inputs = LossInputs(
            logprobs=token_logprobs(logits, tokens, self.temperature),
            sampling_logprobs=part.sampling_logprobs.to(device),
            mask=part.completion_mask.to(device),
            advantages=advantages[part.rows].to(device),
            num_rows=len(advantages),
            num_tokens=num_tokens,
        )
        output: LossOutput = self.loss(inputs)
        return output
