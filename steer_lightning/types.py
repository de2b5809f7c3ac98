"""The typed carriers between the stages of a training step.

Axes, everywhere in the package: B prompts, G completions of a prompt (a group), N = B * G rows,
T tokens, V vocabulary, L steered layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # reward workers read these types, too, and should not wait for torch
    import torch


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with its gold answer, as a data source yields it."""

    question: str
    answer: str
    columns: Mapping[str, object] = field(default_factory=dict)
    """Further columns of the source, handed on to rewards untouched."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A problem as the model reads it."""

    id: int
    """Position of the problem in its source; part of the sampling seed."""
    problem: Problem
    text: str
    """The rendered template."""
    token_ids: tuple[int, ...]
    """`text` as tokens, special tokens included."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer of the model, as a reward sees it: text and facts, never tensors."""

    text: str
    question: str
    answer: str
    """The gold answer."""
    num_tokens: int
    finished: bool
    """True if the model ended by itself (EOS), False if it was cut off at the token limit."""
    columns: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Where problems come from. Any class with this method plugs in by `class_path`.

    In this and the other plug-in protocols types stand in the docstring: jsonargparse compares
    annotations to the letter, and would refuse a plug-in that writes `list` for `Sequence`, or none
    at all.
    """

    def load(self) -> Any:
        """Returns a sequence of all problems (`Problem`), in a fixed order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """B prompts with G completions each; row n answers prompt n // G."""

    prompts: tuple[Prompt, ...]
    """B prompts."""
    group_size: int
    """G."""
    completion_ids: torch.Tensor
    """(N, T) int64, right-padded; the EOS token, where there is one, is part of the completion."""
    completion_mask: torch.Tensor
    """(N, T) bool, True for tokens of the completion."""
    logprobs: torch.Tensor
    """(N, T) float32, log-probability in nats under the distribution that was sampled.

    0 where padded.
    """
    finished: torch.Tensor
    """(N,) bool, True where the row ended by an EOS token."""
    texts: tuple[str, ...]
    """N decoded completions, without special tokens."""

    @property
    def num_tokens(self) -> torch.Tensor:
        """(N,) int64, tokens of each completion, EOS included."""
        return self.completion_mask.sum(1)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What a loss sees of one micro-batch: n of the N rows that an optimizer step learns from."""

    logprobs: torch.Tensor
    """(n, T) float32, of the current policy, differentiable; arbitrary where masked."""
    old_logprobs: torch.Tensor
    """(n, T) float32, the trainer's before the first update of this batch; in that one `logprobs`
    itself, without gradient."""
    sampling_logprobs: torch.Tensor
    """(n, T) float32, of the distribution that was sampled, as the engine gave them."""
    mask: torch.Tensor
    """(n, T) bool, True for tokens of the completion."""
    advantages: torch.Tensor
    """(n,) float32."""
    num_rows: int
    """N, completions of the whole step, of all processes: losses of micro-batches add up."""
    num_tokens: int
    """Their tokens."""
    reference_logprobs: torch.Tensor | None = None
    """(n, T) float32, of the base with the vectors off; for losses with `needs_reference`."""
    entropy: torch.Tensor | None = None
    """(n, T) float32 in nats, of the current policy's distribution at each sampled position,
    differentiable; for losses with `needs_entropy`."""

    @property
    def lengths(self) -> torch.Tensor:
        """(n,) int64, tokens of each completion, at least 1."""
        return self.mask.sum(1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """What a loss returns for one micro-batch."""

    loss: torch.Tensor
    """Scalar, already divided by what the whole step holds: micro-batches add up."""
    metrics: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Detached scalars that add up over micro-batches in the same way."""
