"""What has been sampled so far, and which rows have ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.draw import draw
from steer_lightning.rollout.engine import OnCompletion
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.stop import StopText
from steer_lightning.types import Completion, Prompt, Rollouts


class Record:
    """Tokens of N completions as they are sampled.

    Args:
        policy: Names the tokens that end a completion.
        sampling: The settings.
        uniforms: (N, T) float64 in [0, 1), each row's stream of random numbers.
        prompts: B prompts.
        on_completion: Told each row and its completion as soon as it has ended.
    """

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling,
        uniforms: torch.Tensor,
        prompts: Sequence[Prompt],
        on_completion: OnCompletion,
    ) -> None:
        self.policy, self.sampling = policy, sampling
        self.prompts, self.on_completion = prompts, on_completion
        self._texts: dict[int, str] = {}
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
        ended = finished | (counts + 1 == self._tokens.shape[1])
        if bool(ended.any()):
            self._hand_out(rows[ended], finished[ended])
        return tokens, ended

    def _hand_out(self, rows: torch.Tensor, finished: torch.Tensor) -> None:
        lengths, tokens = self._lengths[rows].tolist(), self._tokens[rows].tolist()
        ids = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
        texts = self.policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        for row, text, length, done in zip(
            rows.tolist(), texts, lengths, finished.tolist(), strict=True
        ):
            self._texts[row] = text
            problem = self.prompts[row // self.sampling.group_size].problem
            self.on_completion(
                row, Completion.of(problem, text=text, num_tokens=length, finished=done)
            )

    def rollouts(self) -> Rollouts:
        """All completions, in the order of the prompts."""
        lengths = self._lengths.cpu()
        width = int(lengths.max())
        ids = self._tokens[:, :width].cpu()
        return Rollouts(
            prompts=tuple(self.prompts),
            group_size=self.sampling.group_size,
            completion_ids=ids,
            completion_mask=torch.arange(width) < lengths[:, None],
            logprobs=self._logprobs[:, :width].cpu(),
            finished=self._finished.cpu(),
            texts=tuple(self._texts[row] for row in range(len(lengths))),
        )
