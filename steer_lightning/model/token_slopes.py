"""How the log-likelihood of a completion changes, to first order, if one of its tokens changes.

With the tokens of a completion y of a prompt x as one-hot rows y_t (V,) and the table of embeddings
E (V, D), a token enters the log-likelihood twice, as what is predicted and as what is read:

    log pi(y | x) = sum_s  y_s . log pi(. | x, y_1 .. y_(s-1)),     where token t is read as y_t E,
    slope_t = d log pi(y | x) / d y_t
            = log pi(. | x, y_<t) + E d(sum_(s>t) log pi(y_s | x, y_<s)) / d e_t.

`slope_t[v] - slope_t[y_t]` estimates what v in place of y_t would change. The derivative with
respect to the embeddings e_t comes from one backward pass for all t; E is read from the model's own
embedding layer, so that a factor in this layer, as in Gemma, is a part of it. What a model reads
from token ids elsewhere, such as Gemma 3n's embeddings of each layer, is left out of the slope.

One text is read at a time, without padding and without a cache, so that its numbers do not depend
on other texts. Tested with transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from steer_lightning.model.policy import Policy

CHUNK_TOKENS = 8192
"""Number of rows of the table of embeddings that are multiplied at a time."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model says of a completion of T tokens.

    Attributes:
        logprob: Log-likelihood of the completion at temperature 1, the sum over its tokens in nats.
        logits: Logits that predict its tokens, (T, V), at least float32.
        pulls: Derivatives of `logprob` with respect to the embeddings of its tokens, (T, D), at
            least float32; None if they were not asked for.
    """

    logprob: float
    logits: torch.Tensor
    pulls: torch.Tensor | None


def read_completion(
    policy: Policy, prompt: Sequence[int], completion: Sequence[int], with_pulls: bool
) -> Reading:
    """Reads a completion in a forward pass, and in a backward pass for `pulls`.

    Args:
        policy: Loaded policy, steered as it is at the moment.
        prompt: Tokens of the prompt, at least one.
        completion: The T tokens of the completion, at least one.
        with_pulls: Whether to compute `pulls`.

    Raises:
        RuntimeError: If the base does not call its embedding layer once.
    """
    ids = torch.tensor([[*prompt, *completion]], device=policy.device)
    count = len(completion)
    with torch.set_grad_enabled(with_pulls), _leaves(policy.model) as leaves:
        with policy.with_text_roles(ids, count):
            output = policy.model(input_ids=ids, use_cache=False, logits_to_keep=count + 1)
        logits = _at_least_float32(output.logits[0, -count - 1 : -1])
        total = logits.log_softmax(-1).gather(1, ids[0, -count:, None]).sum()
        if with_pulls and len(leaves) != 1:
            raise RuntimeError(f"the embedding layer was called {len(leaves)} times in a pass")
        pulls = torch.autograd.grad(total, leaves)[0][0, -count:] if with_pulls else None
    return Reading(
        logprob=total.item(),
        logits=logits.detach(),
        pulls=None if pulls is None else _at_least_float32(pulls),
    )


@torch.no_grad()
def token_slopes(policy: Policy, reading: Reading, places: torch.Tensor) -> torch.Tensor:
    """Returns the slopes of the log-likelihood with respect to tokens, for the whole vocabulary.

    Args:
        policy: Policy that has read the completion.
        reading: Its reading, with `pulls`.
        places: Places of Q tokens in the completion, (Q,) int64.

    Returns:
        Slopes (Q, V) in nats, at least float32.
    """
    assert reading.pulls is not None
    embed, pulls = policy.model.get_input_embeddings(), reading.pulls[places]
    logits = reading.logits[places]
    every = torch.arange(logits.shape[-1], device=logits.device)
    read = [pulls @ embed(part[None])[0].to(pulls).T for part in torch.split(every, CHUNK_TOKENS)]
    return logits.log_softmax(-1) + torch.cat(read, 1)


@contextmanager
def _leaves(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the outputs of the embedding layer within the block, and makes them leaves."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
