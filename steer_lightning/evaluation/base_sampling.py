"""Settings with which only the base of an evaluation answers, such as greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from steer_lightning.rollout.sampling import GREEDY_BELOW, Sampling


@dataclass(frozen=True, kw_only=True)
class BaseSampling:
    """Settings in which the sampling of the base differs; null takes what `sampling` says.

    Attributes:
        group_size: Number of completions of each prompt; null takes 1 if the base is greedy, whose
            completions are all the same, and otherwise as many as the other arms.
        temperature: Number by which the logits are divided; 0 always takes the most likely token.
        top_p: Nucleus sampling; 1 keeps all tokens.
        top_k: Number of most likely tokens to keep; 0 keeps all.
        min_p: Smallest probability of a token that is kept, as a share of that of the most likely
            token; 0 keeps all.
        max_new_tokens: Maximum number of tokens in a completion.
        eos_token_ids: Token ids that end a completion, in addition to those that the model and its
            tokenizer define.
        stop_strings: Texts that end a completion.
    """

    group_size: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: Sequence[int] | None = None
    stop_strings: Sequence[str] | None = None

    def over(self, sampling: Sampling) -> Sampling:
        """Returns the settings of the base.

        Args:
            sampling: Settings of the other arms.

        Raises:
            ConfigError: If a value is out of range.
        """
        given = {key: value for key, value in asdict(self).items() if value is not None}
        found = replace(sampling, **given)
        if self.group_size is None and found.temperature < GREEDY_BELOW:
            return replace(found, group_size=1)
        return found
