r"""The contrast of kinds of thoughts: executing steps, and reflecting or changing course.

Source: SEAL (arXiv 2504.07986). Completions are split into thoughts at blank lines. A thought that
matches no pattern of reflection or transition is execution. With $h_{i,l}$, the output of layer $l$
at the token of the blank line in front of thought $i$, from which the thought is predicted, and $E$
and $R$, the indices of execution thoughts and of all others,

$$v_l = \frac{1}{|E|} \sum_{i \in E} h_{i,l} - \frac{1}{|R|} \sum_{i \in R} h_{i,l}.$$

Added to the states, the vector makes reflection and transition rarer, and so texts shorter. The
first thought has no blank line in front of it and is left out, unless `reads_first` is set; then it
is read at the last token of the prompt. The paper adds the vector at blank lines of one layer;
here it is added at the layers and tokens of `model.steering`.

Degenerate case: without thoughts of either kind there is no direction, which is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.system.float64 import in_float64
from steer_lightning.training.contrast import Reading
from steer_lightning.training.states import read_states
from steer_lightning.types import Prompt, Rollouts

EXECUTION, REFLECTION, TRANSITION = "execution", "reflection", "transition"

REFLECTIVE = (
    r"^wait|verify|make sure|hold on|think again|'s correct|'s incorrect|let me check|seems right"
)
"""Pattern of reflection, with the paper's keywords."""
CHANGING = (
    "^alternatively|think differently|another (way|approach|method|solution|strategy|technique)"
)
"""Pattern of transition, with the paper's keywords."""


class ThoughtContrast:
    """Contrasts execution thoughts with reflection and transition (SEAL, arXiv 2504.07986).

    Args:
        separator: Text between two thoughts.
        reflection: Regular expression that is found in thoughts of reflection, ignoring case; `^`
            is the beginning of a thought.
        transition: Regular expression that is found in thoughts of transition. A thought that
            matches both is reflection.
        reads_first: Whether to read the first thought, too, at the last token of the prompt.

    Raises:
        ConfigError: If the separator is empty, or a pattern is no regular expression.
    """

    def __init__(
        self,
        separator: str = "\n\n",
        reflection: str = REFLECTIVE,
        transition: str = CHANGING,
        reads_first: bool = False,
    ) -> None:
        if not separator:
            raise ConfigError("contrast.init_args.separator", separator, rule="must not be empty")
        self.separator, self.reads_first = separator, reads_first
        patterns = {REFLECTION: reflection, TRANSITION: transition}
        self.patterns = {kind: _compiled(kind, text) for kind, text in patterns.items()}
        self.counts: Counter[str] = Counter()
        self._sums: dict[bool, torch.Tensor] = {}  # (L, D), by whether a thought is execution
        self._tokens = self._completions = 0

    def check(self, policy: Policy, prompts: Sequence[Prompt], /) -> None:
        """Accepts all prompts that can be answered."""

    def kind_of(self, thought: str) -> str:
        """Returns the kind of a thought: `execution`, `reflection` or `transition`."""
        text = thought.strip()
        return next((k for k, pattern in self.patterns.items() if pattern.search(text)), EXECUTION)

    def read(self, prompts: Sequence[Prompt], reading: Reading, /) -> None:
        """Samples completions of the prompts, and reads the thoughts in them."""
        rollouts = reading.sampler.sample(prompts, step=0).rollouts
        texts, marks, kinds = self.marked(rollouts, reading.policy)
        if kinds:
            self.add(read_states(reading.policy, texts, marks, reading.max_tokens), kinds)

    def marked(
        self, rollouts: Rollouts, policy: Policy
    ) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Finds the thoughts of N completions.

        Returns:
            Tokens of each text, prompt included; the places from which thoughts are predicted, for
            each text; and the kinds of these thoughts, M in all.
        """
        texts, marks, kinds = [], [], []
        lengths = rollouts.completion_mask.sum(1).tolist()
        drawn = rollouts.completion_ids.tolist()
        for n, length in enumerate(lengths):
            prompt = rollouts.prompts[n // rollouts.group_size].token_ids
            ids = [token for token in drawn[n][:length] if token not in policy.ids_without_text]
            every = self.thoughts(ids, policy.tokenizer)
            found = [thought for thought in every if thought[0] > 0 or self.reads_first]
            texts.append([*prompt, *ids])
            marks.append([len(prompt) + start - 1 for start, _ in found])
            kinds += [self.kind_of(thought) for _, thought in found]
            self._tokens += length
        self._completions += len(lengths)
        return texts, marks, kinds

    def thoughts(self, ids: Sequence[int], tokenizer: Any) -> Iterator[tuple[int, str]]:
        """Yields the first token of each thought in a completion, and its text.

        A thought begins after the token that completes a separator; empty ones are left out.
        """
        pieces = [tokenizer.decode([token]) for token in ids]  # a separator may span tokens
        text, ends = "", [0]
        for place, piece in enumerate(pieces, 1):
            text = text[-len(self.separator) :] + piece
            if self.separator in text:
                text = ""
                ends.append(place)
        for start, end in zip(ends, [*ends[1:], len(ids)], strict=True):
            thought = tokenizer.decode(ids[start:end])
            if thought.strip():
                yield start, thought

    def add(self, states: torch.Tensor, kinds: Sequence[str]) -> None:
        """Adds the states (L, M, D) of M thoughts."""
        self.counts.update(kinds)
        executes = torch.tensor([kind == EXECUTION for kind in kinds])
        for side in (True, False):
            part = in_float64(states[:, executes == side]).sum(1)
            self._sums[side] = self._sums.get(side, torch.zeros_like(part)) + part

    def direction(self) -> torch.Tensor:
        """Returns the vectors (L, D) float32.

        Raises:
            ConfigError: If all thoughts are execution, or none is.
        """
        numbers = {True: self.counts[EXECUTION]}
        numbers[False] = self.counts.total() - numbers[True]
        if not all(numbers.values()):
            raise ConfigError(
                "contrast",
                "ThoughtContrast",
                rule=f"has thoughts of one kind only: {self.summary()}",
                why="The direction is the difference between two kinds",
                fix="Use more prompts (num_prompts), longer completions "
                "(model.sampling.max_new_tokens), or patterns of the texts that the model writes "
                "(contrast.init_args.separator, reflection and transition)",
            )
        means = {side: self._sums[side] / number for side, number in numbers.items()}
        return (means[True] - means[False]).float()

    def facts(self) -> dict[str, Any]:
        """Returns the number of completions and of thoughts, and the mean length of the former."""
        kinds = (EXECUTION, REFLECTION, TRANSITION)
        return {
            "num_completions": self._completions,
            **{f"num_{kind}": self.counts[kind] for kind in kinds},
            "mean_length": self._tokens / max(1, self._completions),
        }

    def summary(self) -> str:
        """Returns the number of thoughts of each kind."""
        told = [f"{self.counts[kind]} {kind}" for kind in (EXECUTION, REFLECTION, TRANSITION)]
        return f"thoughts of {self._completions} completions: {', '.join(told)}"


def _compiled(kind: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        rule = f"is no regular expression: {error}"
        raise ConfigError(f"contrast.init_args.{kind}", text, rule=rule) from error
