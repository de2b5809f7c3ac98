"""The loss of prefix fine-tuning, which makes beginnings of the base's completions likelier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.types import LossInputs, LossOutput


class PrefixLikelihood:
    """Makes the first tokens of completions of the frozen base likelier (UPFT, arXiv 2503.02875).

    `loss = - mean_i sum_{t <= k} log pi(y_{i,t} | x, y_{i,<t})`, where y is sampled from the base.
    This is unsupervised prefix fine-tuning, without the share of whole completions that its authors
    mix in. There is no verifier, no reward and no advantage. If several ways of answering begin
    alike, the beginning that most of them share becomes likelier.

    The policy can't learn from its own samples here, because the expected gradient of their
    log-likelihood is 0. So the samples always come from the base, with the vectors off. They are
    drawn from a sharper distribution than that of the trained policy: at a lower temperature, or
    from fewer tokens. With `temperature: 1` and `top_p: 1` the base itself would be the optimum, so
    these settings are refused. The samples do not depend on the vectors, so several optimizer steps
    per batch are as correct as one.

    Args:
        num_tokens: Length k of the prefix; the authors use 8 to 32. No further tokens are sampled.
        temperature: Temperature for sampling the base; 0 always takes the most likely token.
        top_p: Nucleus sampling of the base: only the smallest set of most likely tokens whose
            probabilities add up to `top_p` is kept.

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
        """Returns the `Sampling` for the completions of the base; see `Loss`.

        Args:
            sampling: `Sampling` of `model.sampling`, whose distribution is trained.

        Raises:
            ConfigError: If the settings of this loss contradict `model.sampling`.
        """
        if self.num_tokens > sampling.max_new_tokens:
            raise ConfigError(
                "PrefixLikelihood.num_tokens",
                self.num_tokens,
                rule=f"must be at most model.sampling.max_new_tokens = {sampling.max_new_tokens}",
                why="No completion is longer than that",
                fix="Set num_tokens: 16, for example, or raise model.sampling.max_new_tokens",
            )
        if self.temperature >= sampling.temperature and self.top_p == 1:
            raise ConfigError(
                "PrefixLikelihood.temperature",
                self.temperature,
                rule=f"must be below model.sampling.temperature = {sampling.temperature}, or "
                "PrefixLikelihood.top_p must be below 1",
                why="If the samples are not sharper than the trained distribution, the base "
                "itself is the best model and there is nothing to learn",
                fix="Set PrefixLikelihood.temperature: 0.7, for example",
            )
        return replace(
            sampling,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.num_tokens,
        )

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Returns the loss of one micro-batch, in nats per completion."""
        inside = inputs.mask & (inputs.mask.cumsum(1) <= self.num_tokens)
        kept = torch.where(inside, inputs.logprobs, torch.zeros_like(inputs.logprobs))
        return LossOutput(loss=-kept.sum() / inputs.num_rows)
