"""What vectors change about the attention of a head: how much weight moves, and where to.

With the weights A of the base and A' of the steered model, which has read the same text, and a set
G(t) of keys for each query t:

    variation(t) = 1/2 sum_s |A'(t, s) - A(t, s)|
    moved(t, G) = sum_{s in G(t)} (A'(t, s) - A(t, s))

The first is the total variation distance of two distributions: the share of the weight that lies on
other keys than before, from 0 to 1. The second is signed. What an attention sink takes is one more
key, so that the weights of a query always add up to 1. Looking at attention maps to see what a
model reasons from follows arXiv 2502.15120.

Degenerate case: the first token of a text sees only itself, so that nothing can change there. Means
leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from steer_lightning.system.float64 import in_float64

PLACES = ("first", "previous", "own", "digits", "operators")
"""Sets of keys: the first token of the text, the token before the query, the query itself, tokens
that consist of digits, and those that consist of signs of arithmetic. They may overlap."""

OPERATORS = frozenset("+-*/=<>^%\u00d7\u00f7\u00b7\u2212\u2264\u2265")


def variation(base: torch.Tensor, steered: torch.Tensor) -> torch.Tensor:
    """Computes the total variation distance for each query.

    Args:
        base: Weights (H, T, T) of the base, by head, query and key; a sink takes what is missing
            to 1.
        steered: Weights (H, T, T) of the steered model.

    Returns:
        The distances (H, T), from 0 to 1.
    """
    change = steered - base
    of_sink = change.sum(-1)  # what the keys gain, the sink loses
    return (change.abs().sum(-1) + of_sink.abs()) / 2


def moved(base: torch.Tensor, steered: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Computes how much weight has moved to a set of keys, for each query.

    Args:
        base: Weights (H, T, T) of the base.
        steered: Weights (H, T, T) of the steered model.
        keys: Keys of the set, for each query, (T, T) bool.

    Returns:
        The gains in weight (H, T), from -1 to 1.
    """
    return ((steered - base) * keys).sum(-1)


def key_sets(tokens: Sequence[str]) -> dict[str, torch.Tensor]:
    """Returns the sets of keys of a text, for each query.

    Args:
        tokens: Texts of its T tokens.

    Returns:
        A mask (T, T) bool for each of `PLACES`.
    """
    size = len(tokens)
    own = torch.eye(size, dtype=torch.bool)
    first, previous = torch.zeros_like(own), torch.zeros_like(own)
    first[:, 0] = True
    previous[1:, :-1] = own[1:, 1:]
    plain = [token.strip() for token in tokens]
    digits = torch.tensor([text.isdecimal() for text in plain])
    operators = torch.tensor([bool(text) and set(text) <= OPERATORS for text in plain])
    return {
        "first": first,
        "previous": previous,
        "own": own,
        "digits": digits.expand(size, size),
        "operators": operators.expand(size, size),
    }


class AttentionChange:
    """The change of an attention of H heads over texts, of which only sums are kept."""

    def __init__(self) -> None:
        self._num_queries = 0
        self._variation: torch.Tensor | float = 0.0  # sums (H,) float64
        self._moved: dict[str, torch.Tensor | float] = dict.fromkeys(PLACES, 0.0)

    def add(
        self,
        base: torch.Tensor,
        steered: torch.Tensor,
        sets: Mapping[str, torch.Tensor],
        counted: torch.Tensor,
    ) -> None:
        """Adds the queries of a text.

        Args:
            base: Weights (H, T, T) of the base.
            steered: Weights (H, T, T) of the steered model.
            sets: Sets of keys; see `key_sets`.
            counted: Which queries count, (T,) bool.
        """
        self._num_queries += int(counted.sum())
        self._variation = self._variation + _total(variation(base, steered), counted)
        for name, keys in sets.items():
            gains = moved(base, steered, keys.to(base.device))
            self._moved[name] = self._moved[name] + _total(gains, counted)

    def means(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the means over the queries, (H,) float64: the variation, and what sets gain."""
        gains = {name: torch.as_tensor(x) / self._num_queries for name, x in self._moved.items()}
        return torch.as_tensor(self._variation) / self._num_queries, gains


def _total(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Returns the sum (H,) float64 over the queries that count, of values (H, T)."""
    return in_float64(values[:, counted]).sum(1)
