"""What a loss is, and the parts that one is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

PerToken = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Values (n, T), and what to report: tensors (n, T) by name, of which the mean is logged."""


@runtime_checkable
class Loss(Protocol):
    """Turns log-probabilities and advantages into a scalar; pure, knows no rewards.

    Rows of advantage 0 are left out before a loss sees them, since their policy gradient is 0.
    What else a loss needs it says in attributes, all optional, which `needs_of` reads:

    - `needs_all_rows = True`: those rows, too, for a term of its own;
    - `needs_reference = True`: `LossInputs.reference_logprobs`, at the price of a forward pass;
    - `needs_entropy = True`: `LossInputs.entropy`;
    - `uses_ratio`: whether it takes in how far the policy has moved from `old_logprobs`, so that a
      batch may serve for several updates; a loss without this attribute is not checked;
    - `base_sampling(sampling)`: that its completions are the base's, drawn with the vectors off by
      the `Sampling` that this method returns. Nothing is scored then, and there are no advantages.
    """

    def __call__(self, inputs: Any, /) -> Any:
        """Takes the `LossInputs` of a micro-batch; returns a `LossOutput`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LossNeeds:
    """What a loss, or a term of one, asks for by its attributes; see `Loss`."""

    all_rows: bool
    reference: bool
    entropy: bool
    uses_ratio: bool | None
    """None where it does not say."""
    base_sampling: Callable[[Any], Any] | None
    """From the `Sampling` of training to that of the base; None where the policy samples."""


def needs_of(loss: Any) -> LossNeeds:
    """Reads the optional attributes of a loss, a plain function among them."""
    uses_ratio = getattr(loss, "uses_ratio", None)
    return LossNeeds(
        all_rows=bool(getattr(loss, "needs_all_rows", False)),
        reference=bool(getattr(loss, "needs_reference", False)),
        entropy=bool(getattr(loss, "needs_entropy", False)),
        uses_ratio=None if uses_ratio is None else bool(uses_ratio),
        base_sampling=getattr(loss, "base_sampling", None),
    )


@runtime_checkable
class Objective(Protocol):
    """What `PolicyGradient` makes larger, token by token.

    An attribute `uses_ratio` says whether it takes in how far the policy has moved.
    """

    def gains(self, inputs: Any, /) -> Any:
        """Takes `LossInputs`; returns (n, T) and what to report, see `PerToken`."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """How much each token counts in the loss of a batch."""

    def weights(self, inputs: Any, /) -> Any:
        """Takes `LossInputs`; returns weights that broadcast to (n, T)."""
        ...


@runtime_checkable
class Correction(Protocol):
    """Weighs tokens that the sampler drew from another distribution than the trainer's."""

    def factors(self, inputs: Any, /) -> Any:
        """Takes `LossInputs`; returns (n, T) without gradient, and what to report."""
        ...


@runtime_checkable
class Term(Protocol):
    """What `PolicyGradient` makes smaller beside its objective, token by token.

    Attributes `needs_reference` and `needs_entropy` as of a `Loss`.
    """

    def costs(self, inputs: Any, /) -> Any:
        """Takes `LossInputs`; returns (n, T), its weight applied, and what to report."""
        ...
