"""The first tokens of the base's own completions, made likelier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.types import LossInputs, LossOutput


class PrefixLikelihood:
    """loss = - mean_i sum_{t <= k} log pi(y_{i,t} | x, y_{i,<t}), y drawn from the frozen base.

    Unsupervised prefix fine-tuning (UPFT, arXiv 2503.02875), without the share of whole completions
    that its authors mix in: no verifier, no reward, no advantage. Where several ways of answering
    begin alike, the beginning that most of them share is made likelier.

    What is drawn from the policy itself teaches nothing: the expected gradient of its
    log-likelihood is 0. So the samples stay those of the base, the vectors being off, while the
    vectors move, and are drawn sharper than the policy that is trained, at a lower temperature or
    from fewer tokens; `temperature: 1`, `top_p: 1` would have the base itself as its optimum, and
    is refused. No sample depends on the vectors, so that several updates of a batch are as right as
    one.

    Args:
        num_tokens: k; the authors take 8 to 32. Only so many are drawn.
        temperature: Of the base that draws them; 0 takes the most likely tokens.
        top_p: Of the same.

    Raises:
        ConfigError: If a value is out of range.
    """

    needs_all_rows = True

    def __init__(self, num_tokens: int, temperature: float = 0.7, top_p: float = 1.0) -> None:
        values = {"num_tokens": num_tokens, "temperature": temperature, "top_p": top_p}
        rules = {
            "num_tokens": (num_tokens >= 1, "must be at least 1"),
            "temperature": (0 <= temperature < float("inf"), "must be 0 (greedy) or more"),
            "top_p": (0 < top_p <= 1, "must be above 0 and at most 1"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"PrefixLikelihood.{key}", values[key], rule=rule)
        self.num_tokens, self.temperature, self.top_p = num_tokens, temperature, top_p

    def base_sampling(self, sampling: Any) -> Any:
        """How the base draws the completions; see `Loss`.

        Args:
            sampling: The `Sampling` of `model.sampling`, whose distribution is trained.

        Raises:
            ConfigError: If the two contradict each other.
        """
        if self.num_tokens > sampling.max_new_tokens:
            raise ConfigError(
                "PrefixLikelihood.num_tokens",
                self.num_tokens,
                rule=f"must be at most model.sampling.max_new_tokens = {sampling.max_new_tokens}",
                why="No completion is ever longer",
                fix="Set num_tokens: 16, say, or model.sampling.max_new_tokens higher",
            )
        if self.temperature >= sampling.temperature and self.top_p == 1:
            raise ConfigError(
                "PrefixLikelihood.temperature",
                self.temperature,
                rule="must be below model.sampling.temperature = "
                f"{sampling.temperature}, or PrefixLikelihood.top_p below 1",
                why="Of samples that are no sharper than what is trained the base itself is the "
                "best model: there is nothing to learn",
                fix="Set PrefixLikelihood.temperature: 0.7, say",
            )
        return replace(
            sampling,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.num_tokens,
        )

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Loss of one micro-batch, in nats a completion."""
        inside = inputs.mask & (inputs.mask.cumsum(1) <= self.num_tokens)
        kept = torch.where(inside, inputs.logprobs, torch.zeros_like(inputs.logprobs))
        return LossOutput(loss=-kept.sum() / inputs.num_rows)
