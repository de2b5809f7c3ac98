"""The protocols of a loss and of its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

PerToken = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Values (n, T), and metrics to report: tensors (n, T) by name, whose means are logged."""


@runtime_checkable
class Loss(Protocol):
    """Turns log-probabilities and advantages into a scalar.

    A loss is a pure function and does not see rewards. Rows with advantage 0 are left out before
    the loss is called, since their policy gradient is 0. A loss declares anything else it needs in
    optional attributes, which `needs_of` reads:

    - `needs_all_rows = True`: the loss also needs the rows with advantage 0, for a term of its own;
    - `needs_reference = True`: the loss needs `LossInputs.reference_logprobs`, which take one more
      forward pass;
    - `needs_entropy = True`: the loss needs `LossInputs.entropy`;
    - `uses_ratio`: whether the loss takes into account how far the policy has moved from
      `old_logprobs`, so that an update may take several optimizer steps; a loss without this
      attribute is not checked;
    - `base_sampling(sampling)`: a method whose presence means that the completions come from the
      base, sampled with the vectors off. The method returns the `Sampling` to use. Completions are
      then not scored, and there are no advantages.
    """

    def __call__(self, inputs: Any, /) -> Any:
        """Takes the `LossInputs` of a micro-batch and returns a `LossOutput`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LossNeeds:
    """The needs that a loss, or a term of a loss, declares by its attributes; see `Loss`."""

    all_rows: bool
    reference: bool
    entropy: bool
    uses_ratio: bool | None
    """None if the loss does not declare it."""
    base_sampling: Callable[[Any], Any] | None
    """Function from the `Sampling` of training to that of the base; None if the policy samples."""


def needs_of(loss: Any) -> LossNeeds:
    """Reads the optional attributes of a loss, which may also be a plain function."""
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
    """Computes the gain of each token, which `PolicyGradient` maximises.

    The attribute `uses_ratio` says whether the objective takes into account how far the policy has
    moved.
    """

    def gains(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns gains (n, T) with metrics to report; see `PerToken`."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """Decides how much each token counts in the loss of a batch."""

    def weights(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns weights that broadcast to (n, T)."""
        ...


@runtime_checkable
class Correction(Protocol):
    """Weights tokens to correct for a sampler whose distribution differs from the trainer's."""

    def factors(self, inputs: Any, /) -> Any:
        """Takes `LossInputs`; returns factors (n, T) without gradient, with metrics to report."""
        ...


@runtime_checkable
class Term(Protocol):
    """Computes a cost of each token, which `PolicyGradient` minimises along with its objective.

    The attributes `needs_reference` and `needs_entropy` mean the same as in a `Loss`.
    """

    def costs(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns weighted costs (n, T) with metrics to report."""
        ...
