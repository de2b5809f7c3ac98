"""The output layer: log-probabilities of sampled tokens, and the entropy at their positions.

It is also the interface to the output layer of a transformers model. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_NUMBERS = 2**24
"""Number of logits in memory at the same time, 64 MB in float32."""

LOWEST = torch.finfo(torch.float32).min
"""Log-probability in place of -inf where it is multiplied by its probability: 0 log 0 = 0."""


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Computes `log pi(y_t | y_<t)` under the sampling distribution, with temperature.

    Args:
        logits: Logits (..., V) of any float dtype.
        tokens: Sampled tokens (...) int64.
        temperature: Temperature of the distribution, above 0.

    Returns:
        Log-probabilities in nats, (...) float32.
    """
    scaled = logits.float() / temperature
    picked = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return picked - scaled.logsumexp(-1)


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Computes the KL of a distribution to a second one, in nats.

    Args:
        first: Log-probabilities (..., V).
        second: Log-probabilities (..., V).

    Returns:
        KL (...), at least 0; NaN where the first distribution is not finite.
    """
    gaps = first.exp() * (first - second)
    return gaps.where(first != -torch.inf, 0.0).sum(-1).clamp(min=0)  # 0 log 0 = 0


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output layer of a language model: `logits = factor * softcap(W h + b)`.

    Attributes:
        weight: Matrix W, (V, D).
        bias: Bias b, (V,), or None.
        softcap: Constant c of `softcap(x) = c * tanh(x / c)`, as in Gemma 2; None for no softcap.
        factor: Factor on all logits, as in Cohere, Granite and Falcon-H1.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    factor: float = 1.0

    @property
    def is_trained(self) -> bool:
        """Whether the layer needs a gradient."""
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the logits (Q, V) float32 of states (Q, D), without the factor; no gradient."""
        raw = torch.nn.functional.linear(states, self.weight, self.bias).float()
        return raw if self.softcap is None else raw.div_(self.softcap).tanh_().mul_(self.softcap)

    def differentiable_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the logits (Q, V) float32 of states (Q, D), with the factor."""
        raw = torch.nn.functional.linear(states, self.weight, self.bias).float()
        if self.softcap is not None:
            raw = (raw / self.softcap).tanh() * self.softcap
        return raw * self.factor


def head_of(model: Any, layer: Any, factor: float) -> Head:
    """Returns the head of a model, whose output layer may be gathered only during its pass."""
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    return Head(weight=layer.weight, bias=bias, softcap=softcap, factor=factor)


FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Names by which configurations give a factor on the logits, or sometimes its inverse."""


@torch.no_grad()
def logit_factor(model: Any) -> float:
    """Returns the factor by which a model multiplies the output of its last layer, usually 1.

    The candidates come from the configuration; a pass over a few tokens shows which one applies, if
    any.

    Args:
        model: Language model.
    """
    text = model.config.get_text_config()
    named = [float(getattr(text, name, None) or 1.0) for name in FACTORS]
    possible = {1.0, *named, *(1 / factor for factor in named)}
    if len(possible) == 1:
        return 1.0
    raw: list[torch.Tensor] = []
    layer = model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda module, inputs, output: raw.append(output.float()))
    try:
        ids = torch.ones(1, 4, dtype=torch.long, device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        handle.remove()
    found = float((raw[0] * logits).sum() / raw[0].square().sum())
    return min(possible, key=lambda factor: abs(found / factor - 1))


def has_unembedding(model: Any) -> bool:
    """Returns whether the output layer of a model is a matrix of floating-point numbers."""
    weight = getattr(model.get_output_embeddings(), "weight", None)
    return weight is not None and bool(weight.is_floating_point())


@contextmanager
def before_head(model: Any, hook: Callable[..., Any]) -> Iterator[None]:
    """Calls a hook before the output layer in the forward passes within the block.

    Args:
        model: Language model.
        hook: Function of the layer and its inputs, one of torch's forward pre-hooks.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, kw_only=True)
class TokenStates:
    """The log-probabilities and entropies of tokens, computed by the head from hidden states.

    Tensors have the shape (Q,), or that of the tokens for which they are computed.

    Attributes:
        logprobs: Log-probabilities `log pi(y_t | y_<t)` in nats, (Q,) float32.
        entropy: Entropies of `pi(. | y_<t)` over the vocabulary in nats, (Q,) float32; None if not
            requested.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None


class _ChunkedHead(torch.autograd.Function):
    """Applies the head chunk by chunk, so that all logits (Q, V), or their gradient, never exist.

    `log pi(y | h)` and the entropy `H(h)` depend only on their own hidden state, and their
    gradients are vectors of width D. With `z = logits / temperature`, `p = softmax(z)` and
    `f_v = 1 - (logit_v / c)^2` (1 without softcap), where a factor on the logits is part of the
    temperature,

        d log pi / d h = (f_y W_y - sum_v p_v f_v W_v) / temperature,
        d H / d h      = - sum_v p_v (z_v - sum_u p_u z_u) f_v W_v / temperature.

    These gradients are computed while the logits of a chunk exist, and are kept instead of the
    logits. So nothing is computed twice, and the frozen head gets no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        tokens: torch.Tensor,
        head: Head,
        temperature: float,
        chunk: int,
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [
            _chunk(states, chosen, head, temperature, ctx.needs_input_grad[0], with_entropy)
            for states, chosen in zip(
                torch.split(hidden, chunk), torch.split(tokens, chunk), strict=True
            )
        ]
        logprobs, slopes, entropy, entropy_slopes = (
            torch.cat(parts) for parts in zip(*found, strict=True)
        )
        ctx.save_for_backward(slopes, entropy_slopes)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slopes, entropy_slopes = ctx.saved_tensors
        gradient = slopes * grads[0].unsqueeze(-1)
        if len(entropy_slopes):
            gradient = gradient + entropy_slopes * grads[1].unsqueeze(-1)
        return gradient.to(slopes.dtype), None, None, None, None, None


def _chunk(
    states: torch.Tensor,
    tokens: torch.Tensor,
    head: Head,
    temperature: float,
    needs_slope: bool,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns log-probabilities (q,), their slopes (q, D), and both of entropies; empty if unused.

    A slope is the gradient with respect to the hidden state.
    """
    logits, temperature = head.logits(states), temperature / head.factor
    steep = None if head.softcap is None else 1 - (logits / head.softcap).square_()
    if temperature != 1:
        logits.div_(temperature)
    index = tokens.unsqueeze(-1)
    picked = logits.gather(-1, index)
    largest = logits.amax(-1, keepdim=True)
    shifted = logits.sub_(largest)
    if with_entropy:
        shifted.clamp_(min=LOWEST)
    # otherwise the same buffer is reused
    weights = shifted.exp() if with_entropy else shifted.exp_()
    total = weights.sum(-1, keepdim=True)
    logprobs = (picked - largest - total.log()).squeeze(-1)
    slopes = entropy = entropy_slopes = states.new_empty(0)
    if with_entropy:
        mean = torch.linalg.vecdot(weights, shifted).unsqueeze(-1) / total
        entropy = (total.log() - mean).squeeze(-1)
        if needs_slope:
            steepness = shifted.sub_(mean).mul_(weights)
            entropy_slopes = _through_head(steepness, steep, total, head) / -temperature
    if needs_slope:
        # 1 for the token itself is subtracted before the product: for a nearly certain token, W_y
        # and the mean of all W_v are almost equal, and in 16 bits the difference of two such
        # vectors is mostly rounding error
        weights.scatter_add_(-1, index, -total)
        slopes = _through_head(weights, steep, total, head) / -temperature
    return logprobs, slopes, entropy, entropy_slopes


def _through_head(
    weights: torch.Tensor, steep: torch.Tensor | None, total: torch.Tensor, head: Head
) -> torch.Tensor:
    """Returns `sum_v w_v f_v W_v / total`, (q, D); overwrites the weights w (q, V)."""
    if steep is not None:
        weights.mul_(steep)
    return (weights.to(head.weight.dtype) @ head.weight) / total.to(head.weight.dtype)


def token_states(
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    head: Head,
    temperature: float,
    with_entropy: bool = False,
) -> TokenStates:
    """Computes `log pi(y_t | y_<t)` and the entropy from the states that enter the head.

    Args:
        hidden: Hidden states that enter the head, (Q, D).
        tokens: Sampled tokens, (Q,) int64.
        head: Output layer.
        temperature: Temperature of the distribution, above 0.
        with_entropy: Whether to compute the entropy, which takes a second buffer of logits.
    """
    chunk = max(1, CHUNK_NUMBERS // len(head.weight))
    if head.is_trained and torch.is_grad_enabled():
        return _of_trained_head(hidden, tokens, head, temperature, chunk, with_entropy)
    logprobs, entropy = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden, tokens, head, temperature, chunk, with_entropy
    )
    return TokenStates(logprobs=logprobs, entropy=entropy if with_entropy else None)


def _of_trained_head(
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    head: Head,
    temperature: float,
    chunk: int,
    with_entropy: bool,
) -> TokenStates:
    """Applies a head that is trained, too; logits are computed again in the backward pass."""

    def part(states: torch.Tensor, chosen: torch.Tensor) -> TokenStates:
        logits = head.differentiable_logits(states)
        return token_states_of_logits(logits, chosen, temperature, with_entropy)

    found: list[TokenStates] = [
        checkpoint(part, states, chosen, use_reentrant=False)
        for states, chosen in zip(
            torch.split(hidden, chunk), torch.split(tokens, chunk), strict=True
        )
    ]
    entropies = [part.entropy for part in found if part.entropy is not None]
    return TokenStates(
        logprobs=torch.cat([part.logprobs for part in found]),
        entropy=torch.cat(entropies) if with_entropy else None,
    )


def token_states_of_logits(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, with_entropy: bool = False
) -> TokenStates:
    """Computes `log pi(y_t | y_<t)` and the entropy from logits.

    Args:
        logits: Logits (..., V) of any float dtype.
        tokens: Sampled tokens (...) int64.
        temperature: Temperature of the distribution, above 0.
        with_entropy: Whether to compute the entropy.
    """
    logprobs = token_logprobs(logits, tokens, temperature)
    if not with_entropy:
        return TokenStates(logprobs=logprobs, entropy=None)
    every = (logits.float() / temperature).log_softmax(-1)
    entropy = -(every.exp() * every.clamp(min=LOWEST)).sum(-1)
    return TokenStates(logprobs=logprobs, entropy=entropy)
