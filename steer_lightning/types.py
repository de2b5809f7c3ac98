"""The typed carriers between the stages of a training step.

The names of the axes are the same everywhere in the package: B prompts, G completions of a prompt
(a group), N = B * G rows, T tokens, V vocabulary, L steered layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # reward workers import this module, too, and should not wait for torch
    import torch


INSTRUCTIONS = "instructions"
"""Column of a problem with verifiable instructions, each a mapping with `kind` and `value`."""

TOKEN_BUDGET = "token_budget"
"""Column of a problem with the number of tokens that its prompt allows."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with its gold answer, as a data source yields it."""

    question: str
    answer: str
    columns: Mapping[str, object] = field(default_factory=dict)
    """Further columns of the source, which rewards receive unchanged."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A problem in the form in which the model reads it."""

    id: int
    """Position of the problem in its source; part of the sampling seed."""
    problem: Problem
    text: str
    """Rendered template."""
    token_ids: tuple[int, ...]
    """Tokens of `text`, special tokens included."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer of the model, as rewards see it: text and facts, never tensors."""

    text: str
    question: str
    answer: str
    """Gold answer."""
    num_tokens: int
    finished: bool
    """Whether the model ended the text itself, with an EOS token or a stop string; False if it was
    cut off at the token limit."""
    columns: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Loads problems; any class with this method can be used by its `class_path`.

    This and the other plug-in protocols name their types in the docstring only. jsonargparse
    compares annotations literally, and would refuse a plug-in that writes `list` for `Sequence` or
    that has no annotations.
    """

    def load(self) -> Any:
        """Returns the sequence of all problems (`Problem`), in a fixed order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """B prompts with G completions each; row n answers prompt n // G."""

    prompts: tuple[Prompt, ...]
    """The B prompts."""
    group_size: int
    """Number G of completions per prompt."""
    completion_ids: torch.Tensor
    """Tokens of the completions, (N, T) int64, right-padded; includes the EOS token of a row."""
    completion_mask: torch.Tensor
    """Mask of the completions, (N, T) bool, False where padded. Its sums over the rows are the
    numbers of tokens, EOS included."""
    logprobs: torch.Tensor
    """Log-probabilities of the tokens under the distribution that was sampled, (N, T) float32.

    They are in nats, and 0 where padded.
    """
    finished: torch.Tensor
    """Whether the model ended the row itself, with an EOS token or a stop string, (N,) bool."""
    texts: tuple[str, ...]
    """The N decoded completions as rewards read them: without the special tokens that begin or end
    a text, but with those that structure it, such as `<think>`."""
    guided: torch.Tensor | None = None
    """Whether each row was sampled with a hint in its prompt, (N,) bool; None if no row was.
    `prompts` have no hint, but `logprobs` are those with the hint."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The input of a loss for one micro-batch: n of the N rows that an optimizer step learns from.

    All log-probabilities are in nats.
    """

    logprobs: torch.Tensor
    """Log-probabilities under the current policy, (n, T) float32, differentiable; arbitrary where
    masked."""
    old_logprobs: torch.Tensor
    """Log-probabilities that the trainer computed before the first optimizer step on this batch,
    (n, T) float32; in the first step they equal `logprobs`, without gradient. Those of guided rows
    are `sampling_logprobs`, under the prompt with its hint."""
    sampling_logprobs: torch.Tensor
    """Log-probabilities under the sampled distribution, as the engine gave them, (n, T) float32."""
    mask: torch.Tensor
    """Mask of the completions, (n, T) bool, False where padded."""
    advantages: torch.Tensor
    """Advantage of each completion, (n,) float32."""
    num_rows: int
    """Number N of completions in the whole step, over all processes, so that losses of
    micro-batches add up."""
    num_tokens: int
    """Number of tokens of those N completions."""
    reference_logprobs: torch.Tensor | None = None
    """Log-probabilities under the base with the vectors off, (n, T) float32; for losses with
    `needs_reference`."""
    entropy: torch.Tensor | None = None
    """Entropy of the current policy at each sampled position, in nats, (n, T) float32,
    differentiable; for losses with `needs_entropy`."""
    guided: torch.Tensor | None = None
    """Whether each row was sampled with a hint in its prompt, (n,) bool; None if no row of the
    process was."""

    @property
    def lengths(self) -> torch.Tensor:
        """Number of tokens of each completion, at least 1, (n,) int64."""
        return self.mask.sum(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """The result of a loss for one micro-batch."""

    loss: torch.Tensor
    """Loss, a scalar, divided by the size of the whole step, so that micro-batches add up."""
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Metrics, detached scalars that add up over micro-batches in the same way."""
