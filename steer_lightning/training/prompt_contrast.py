r"""The contrast of two prompts for the same question: what an instruction changes in the states.

Source: Fractional Reasoning (arXiv 2506.15882). Each question $i$ is read once with a positive and
once with a negative instruction, and $d_{i,l}$ is the difference of the states of layer $l$ at the
last token of the two prompts. The direction is

- `mean`: $v_l = \frac{1}{P} \sum_i d_{i,l}$, or
- `principal`: the unit vector that maximizes $\sum_i (v_l^\top d_{i,l})^2$, the first principal
  component of the uncentred differences as in the paper, times $\sqrt{\frac{1}{P} \sum_i (v_l^\top
  d_{i,l})^2}$, so that layers keep their proportions, and with the sign of the mean difference.

No completion is sampled and no answer is needed. A scale between 0 and 1 is then a fraction of what
the instruction does, above 1 more than that. The paper rescales the steered state to its old
length; here the vector is only added.

Degenerate cases: with one question both directions are the difference itself; two prompts with
equal states have no direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from steer_lightning.data import Template
from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.training.contrast import Reading
from steer_lightning.training.states import read_states
from steer_lightning.types import Prompt

KEY = "contrast.init_args"


class PromptContrast:
    """Contrasts a positive and a negative prompt for each question (arXiv 2506.15882).

    Args:
        positive: Template of the prompt whose effect is wanted, such as "think step by step".
        negative: Template of the prompt to compare it with.
        component: `mean` of the differences of their states, or first `principal` component.
    """

    def __init__(
        self,
        positive: Template,
        negative: Template,
        component: Literal["mean", "principal"] = "mean",
    ) -> None:
        self.positive, self.negative, self.component = positive, negative, component
        self._differences: list[torch.Tensor] = []  # (L, B, D) of each batch

    def check(self, policy: Policy, prompts: Sequence[Prompt], /) -> None:
        """Raises a ConfigError if a prompt can't be rendered or read, or both prompts are equal."""
        pairs = {}
        for key in ("positive", "negative"):
            template = getattr(self, key)
            texts = _rendered(template, prompts, policy.tokenizer)
            made = [
                Prompt(id=prompt.id, problem=prompt.problem, text="", token_ids=tuple(ids))
                for prompt, ids in zip(prompts, texts, strict=True)
            ]
            policy.check_prompts(made, 0, f"{KEY}.{key}")
            pairs[key] = texts
        if pairs["positive"] == pairs["negative"]:
            raise ConfigError(
                f"{KEY}.positive",
                repr(self.positive),
                rule=f"gives the same prompts as {KEY}.negative",
                why="The direction is the difference between the two, which would be 0",
                fix="Change one of the two templates",
            )

    def read(self, prompts: Sequence[Prompt], reading: Reading, /) -> None:
        """Reads both prompts of each question."""
        policy = reading.policy
        texts = [
            *_rendered(self.positive, prompts, policy.tokenizer),
            *_rendered(self.negative, prompts, policy.tokenizer),
        ]
        last = [[len(text) - 1] for text in texts]
        states = read_states(policy, texts, last, reading.max_tokens)
        self.add(states[:, : len(prompts)], states[:, len(prompts) :])

    def add(self, positive: torch.Tensor, negative: torch.Tensor) -> None:
        """Adds the states (L, B, D) of B questions with either prompt."""
        self._differences.append(positive - negative)

    def direction(self) -> torch.Tensor:
        """Returns the vectors (L, D)."""
        every = torch.cat(self._differences, 1)
        mean = every.mean(1)
        if self.component == "mean":
            return mean
        found = []
        for differences, towards in zip(every, mean, strict=True):  # a layer at a time
            _, sizes, rows = torch.linalg.svd(differences, full_matrices=False)
            vector = rows[0] * sizes[0] / len(differences) ** 0.5
            found.append(vector if vector @ towards >= 0 else -vector)
        return torch.stack(found)

    @property
    def num_prompts(self) -> int:
        """Number of questions added so far."""
        return sum(part.shape[1] for part in self._differences)

    def facts(self) -> dict[str, Any]:
        """Returns the number of questions, and the component."""
        return {"num_prompts": self.num_prompts, "component": self.component}

    def summary(self) -> str:
        """Returns the number of pairs."""
        return f"{self.num_prompts:d} pairs of prompts, {self.component} of their differences"


def _rendered(template: Any, prompts: Sequence[Prompt], tokenizer: Any) -> list[list[int]]:
    return [
        list(template.encode(template.render(prompt.problem.question, tokenizer), tokenizer))
        for prompt in prompts
    ]
