"""Checks of the update's fast paths against plain forward passes, on made-up rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from steer_lightning.model.head import Head
from steer_lightning.model.policy import Policy
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.training.packing import PackedForward, Packing
from steer_lightning.training.skipped_layers import KeptStream, SkippedLayers

REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)
"""Errors raised by a model that does not fit the interfaces of `steer_lightning.model`."""


def made_up_rows(policy: Policy) -> Iterator[tuple[list[int], int, list[int]]]:
    """Yields rows (prompt, group, completion) of unequal lengths, two of which share a group."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.model.config.get_text_config().vocab_size

    def tokens(count: int) -> list[int]:
        found = torch.randint(vocabulary, (count,), generator=generator)
        return [int(token) for token in found]

    first = tokens(5)
    yield first, 0, tokens(6)
    yield first, 0, tokens(1)
    yield tokens(9), 1, tokens(4)


def made_up_packing(policy: Policy) -> Packing:
    """Returns the rows of `made_up_rows`, packed."""
    prompts, groups, completions = zip(*made_up_rows(policy), strict=True)
    return Packing(prompts, groups, completions, policy.device)


def read_made_up(policy: Policy, packing: Packing) -> tuple[torch.Tensor, Head]:
    """Returns the head's input at the predictors of a packing, (Q, D), and the head."""
    forward = PackedForward(policy)
    with forward.passes(), forward.attending(packing):
        return forward.head_states(packing)


@torch.no_grad()
def why_not_packed(policy: Policy) -> str | None:
    """Compares packed with plain forward passes on made-up rows.

    Returns:
        None if they agree, else the reason why rows can't be packed.
    """
    if policy.sharding.why_not_packed is not None:
        return policy.sharding.why_not_packed
    if policy.steering.trains_head:
        return "the output layer is trained, too"
    try:
        packing = made_up_packing(policy)
        states, head = read_made_up(policy, packing)
        found = head.logits(states)[packing.copies]
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}"
    expected = []
    for prompt, _, completion in made_up_rows(policy):
        ids = torch.tensor([[*prompt, *completion]], device=policy.device)
        expected.append(policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1])
    gap = float((torch.cat(expected).float().log_softmax(-1) - found.log_softmax(-1)).abs().max())
    tolerance = 1e-3 if policy.model.dtype == torch.float32 else 0.5
    return None if gap <= tolerance else f"log-probabilities differ by {gap:.2g}"


@torch.no_grad()
def can_skip_layers(policy: Policy) -> bool:
    """Tells whether a packed pass is the same, bit for bit, if it skips the unsteered first layers.

    It is not the same where layers hand on more than their stream. There is nothing to skip where
    the trained parameters act on the first layer already.
    """
    if policy.steering.first_layer == 0:
        return False
    packing = made_up_packing(policy)
    skipped = SkippedLayers(policy.layers, policy.steering.first_layer, packing.ids.numel())
    stream = KeptStream(skipped, num_passes=2)
    try:
        with stream.one_pass():
            whole, _ = read_made_up(policy, packing)
        with stream.one_pass():
            again, _ = read_made_up(policy, packing)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return False
    return torch.equal(whole, again)
