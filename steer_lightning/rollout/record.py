"""What has been sampled so far, and which rows have ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.policy import Policy
from steer_lightning.rollout.draw import draw
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.stop import StopText
from steer_lightning.types import Prompt, Rollouts


class Record:
    """Tokens of N completions as they are sampled.

    Args:
        policy: Names the tokens that end a completion.
        sampling: The settings.
        uniforms: (N, T) float64 in [0, 1), each row's stream of random numbers.
    """

    def __init__(self, policy: Policy, sampling: Sampling, uniforms: torch.Tensor) -> None:
        self.policy, self.sampling = policy, sampling
        device = policy.device
        num_rows, width = uniforms.shape
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have none
        self._uniforms = uniforms.to(exact).to(device)
        self._tokens = torch.full((num_rows, width), policy.pad_token_id, device=device)
        self._logprobs = torch.zeros(num_rows, width, device=device)
        self._lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
        stops = sorted({*policy.eos_token_ids, *sampling.eos_token_ids})
        self._stops = torch.tensor(stops, dtype=torch.long, device=device)
        texts = sampling.stop_strings
        self._stop_text = StopText(policy.tokenizer, texts) if texts else None

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws one token for each of n rows.

        Args:
            logits: (n, V).
            rows: (n,) which rows.
            counts: (n,) tokens that each has already.

        Returns:
            Tokens (n,), and bool (n,) for rows that have ended.
        """
        tokens, logprobs = draw(logits, self._uniforms[rows, counts], self.sampling)
        self._tokens[rows, counts] = tokens
        self._logprobs[rows, counts] = logprobs
        self._lengths[rows] = counts + 1
        finished = torch.isin(tokens, self._stops)
        if self._stop_text is not None:
            texts = zip(self._tokens[rows].tolist(), counts.tolist(), strict=True)
            told = [self._stop_text(row[: count + 1]) for row, count in texts]
            finished |= torch.tensor(told, device=finished.device)
        self._finished[rows] = finished
        return tokens, finished | (counts + 1 == self._tokens.shape[1])

    def rollouts(self, prompts: Sequence[Prompt]) -> Rollouts:
        """All completions, in the order of the prompts."""
        lengths = self._lengths.cpu()
        width = int(lengths.max())
        ids = self._tokens[:, :width].cpu()
        rows = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        return Rollouts(
            prompts=tuple(prompts),
            group_size=self.sampling.group_size,
            completion_ids=ids,
            completion_mask=torch.arange(width) < lengths[:, None],
            logprobs=self._logprobs[:, :width].cpu(),
            finished=self._finished.cpu(),
            texts=tuple(self.policy.tokenizer.batch_decode(rows, skip_special_tokens=True)),
        )
