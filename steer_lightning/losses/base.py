"""The protocols of a loss and of the parts that a loss is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

PerToken = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Values of shape (n, T), and metrics to report: tensors (n, T) by name, whose means are logged."""


@runtime_checkable
class Loss(Protocol):
    """Turns log-probabilities and advantages into a scalar.

    A loss is pure and knows nothing of rewards. Rows of advantage 0 are left out before a loss sees
    them, since their policy gradient is 0. A loss declares anything else it needs in optional
    attributes, which `needs_of` reads:

    - `needs_all_rows = True`: the loss needs the rows of advantage 0, too, for a term of its own;
    - `needs_reference = True`: it needs `LossInputs.reference_logprobs`, which cost a forward pass;
    - `needs_entropy = True`: it needs `LossInputs.entropy`;
    - `uses_ratio`: whether the loss takes into account how far the policy has moved from
      `old_logprobs`, so that an update may take several optimizer steps; a loss without this
      attribute is not checked;
    - `base_sampling(sampling)`: a method whose presence says that the completions come from the
      base, drawn with the vectors off by the `Sampling` that the method returns. Nothing is scored
      then, and there are no advantages.
    """

    def __call__(self, inputs: Any, /) -> Any:
        """Takes the `LossInputs` of a micro-batch and returns a `LossOutput`."""
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
    """Computes the gain of each token, which `PolicyGradient` makes larger.

    The attribute `uses_ratio` says whether the objective takes into account how far the policy has
    moved.
    """

    def gains(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns gains (n, T) with metrics to report, see `PerToken`."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """Decides how much each token counts in the loss of a batch."""

    def weights(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns weights that broadcast to (n, T)."""
        ...


@runtime_checkable
class Correction(Protocol):
    """Weighs tokens that the sampler drew from a distribution other than the trainer's."""

    def factors(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns factors (n, T), no gradient, with metrics to report."""
        ...


@runtime_checkable
class Term(Protocol):
    """Computes a cost of each token, which `PolicyGradient` makes smaller beside its objective.

    The attributes `needs_reference` and `needs_entropy` mean the same as in a `Loss`.
    """

    def costs(self, inputs: Any, /) -> Any:
        """Takes `LossInputs` and returns weighted costs (n, T) with metrics to report."""
        ...
