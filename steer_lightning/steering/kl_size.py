"""The measurement of how large vectors must be to change what the model says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.model_parts import stream_of, with_stream

KL = 0.1
"""Change of the next-token distribution that a unit makes, in nats."""
MOST_TOKENS = 512
"""Maximum number of prompt tokens that a pass of the measurement reads."""
MOST_LOGITS = 128
"""Maximum number of tokens whose logits are compared."""
ROUNDS = 5
"""Number of sizes that are tried, with other signs each time."""
FIRST = 0.01
"""First size, as a multiple of the typical one."""
LAST = 2
"""Number of rounds, at the end, of which the mean counts."""
WIDEST_JUMP = 30.0
"""Maximum factor between the sizes of two rounds."""
LARGEST = 10.0
"""Largest factor; vectors ten times as large as the stream that change little have no effect."""

Batch = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def measure_kl_size(
    model: nn.Module,
    places: Sequence[nn.Module],
    sizes: torch.Tensor,
    width: int,
    batches: Sequence[Batch],
) -> float:
    r"""Measures how large random vectors must be to change the next token.

    Returns the factor a for which vectors with the elements $\pm a r_l$, of random signs, at all
    places l together change the distribution of the next token by `KL`:

    $$\frac{1}{n} \sum_t \mathrm{KL}(p_t \,\|\, p_t^{(a)}) = 0.1$$

    where t runs over tokens of prompts. For small vectors the KL is quadratic in a, so a is found
    by a few rounds of $a \leftarrow a \sqrt{0.1 / \mathrm{KL}}$. The number of rounds is fixed, so
    that processes that share a sharded base take part in the same passes.

    Args:
        model: Language model, unsteered.
        places: The L modules at whose output the vectors are added.
        sizes: Typical size r of the output of each module, (L,); see `measure_rms`.
        width: Width D of the vectors.
        batches: Prompts (B, T) int64, right-padded, with masks (B, T), 0 where padded. At most
            `MOST_TOKENS` tokens of the first batch are read, and at least one prompt.

    Returns:
        The factor a, at most `LARGEST`.

    Raises:
        ConfigError: If the logits of the base are not finite numbers.
    """
    ids, mask = (x[: max(1, MOST_TOKENS // x.shape[1])] for x in batches[0])
    chosen = mask.flatten().nonzero().flatten()
    chosen = chosen[:: -(-len(chosen) // MOST_LOGITS)]

    def logprobs() -> torch.Tensor:
        with logits_of(model, chosen):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        found: torch.Tensor = logits.flatten(0, 1)
        if len(found) != len(chosen):  # the model does not expose its output layer
            found = found[chosen]
        return found.float().log_softmax(-1)

    before = logprobs()
    generator = torch.Generator().manual_seed(0)
    factor, factors = FIRST, []
    for _ in range(ROUNDS):
        signs = torch.randint(2, (len(places), width), generator=generator) * 2 - 1
        with vectors_added(places, signs * sizes[:, None] * factor):
            kl = mean_kl(before, logprobs())
        jump = (KL / kl) ** 0.5 if kl > 0 else WIDEST_JUMP  # 0 for an infinite KL
        factor = min(factor * min(max(jump, 1 / WIDEST_JUMP), WIDEST_JUMP), LARGEST)
        factors.append(factor)
    return float(torch.tensor(factors[-LAST:]).log().mean().exp())


def mean_kl(before: torch.Tensor, after: torch.Tensor) -> float:
    """Returns the mean KL of log-probabilities (n, V); infinite if some are not finite numbers.

    Raises:
        ConfigError: If those before are not.
    """
    gaps = before.exp() * (before - after)
    kl = float(gaps.where(before > -torch.inf, 0.0).sum(-1).mean())
    if before.isnan().any():
        raise ConfigError(
            "model.steering.scale",
            "kl",
            rule="the logits of the base are not finite numbers on the first prompts",
            why="The KL of the next token can't be measured",
            fix="Check model.base and model.dtype",
        )
    return kl if math.isfinite(kl) else math.inf


@contextmanager
def logits_of(model: Any, chosen: torch.Tensor) -> Iterator[None]:
    """Makes a model compute only the logits of chosen tokens (n,) within the block, (1, n, V).

    Args:
        model: Language model of transformers; a model that does not expose its output layer
            computes all logits.
        chosen: Indices of the tokens among those of all rows.
    """

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = inputs[0].flatten(0, 1).index_select(0, chosen.to(inputs[0].device))
        return (states[None], *inputs[1:])

    head = model.get_output_embeddings()
    with ExitStack() as stack:
        if head is not None:
            stack.callback(head.register_forward_pre_hook(cut).remove)
        yield


@contextmanager
def vectors_added(places: Sequence[nn.Module], vectors: torch.Tensor) -> Iterator[None]:
    """Adds vectors (L, D) to the output of L modules within the block."""

    def add(row: int, module: nn.Module, args: object, output: Any) -> Any:
        stream = stream_of(output)
        return with_stream(output, stream + vectors[row].to(stream))

    with ExitStack() as stack:
        for row, place in enumerate(places):
            stack.callback(place.register_forward_hook(partial(add, row)).remove)
        yield
