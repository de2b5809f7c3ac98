"""What the policy makes of the rows of a micro-batch: packed, or padded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from steer_lightning.model.head import Head, TokenStates, read_head, read_logits
from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.training.batch import MicroBatch
from steer_lightning.training.packing import Packing, packed, packed_attention
from steer_lightning.training.skipped_layers import Kept, Streams


@contextmanager
def read(
    policy: Policy,
    part: MicroBatch,
    temperature: float,
    *,
    is_packed: bool,
    with_entropy: bool = False,
) -> Iterator[TokenStates]:
    """Reads a micro-batch; the backward pass belongs into the block.

    Args:
        policy: Within `packed_attention`, if rows are packed.
        part: n rows.
        temperature: Of the sampled distribution.
        is_packed: Reads what rows of a group have in common once, and no padding.
        with_entropy: Whether the entropy is asked for.

    Yields:
        Of (n, T) tokens; arbitrary where masked.
    """
    if not is_packed:
        yield read_padded(policy, part, temperature, with_entropy)
        return
    packing = pack(part, policy.device)
    with packed(packing):
        yield read_packed(policy, packing, part, temperature, with_entropy)


def pack(part: MicroBatch, device: torch.device) -> Packing:
    """Packs the rows of a micro-batch."""
    lengths = part.completion_mask.sum(1).tolist()
    completions = [
        row[:length] for row, length in zip(part.completion_ids.tolist(), lengths, strict=True)
    ]
    return Packing(part.prompts, part.groups, completions, device)


def read_packed(
    policy: Policy, packing: Packing, part: MicroBatch, temperature: float, with_entropy: bool
) -> TokenStates:
    """What is known of the completions' tokens, (n, T), 0 where padded."""
    states, head = policy.head_states(
        packing.ids, packing.positions, packing.predictors, packing.roles
    )
    flat = read_head(states, packing.targets, head, temperature, with_entropy)
    mask = part.completion_mask.to(states.device)

    def spread(values: torch.Tensor) -> torch.Tensor:
        empty = torch.zeros(mask.shape, device=mask.device)
        return empty.masked_scatter(mask, values[packing.copies])

    entropy = None if flat.entropy is None else spread(flat.entropy)
    return TokenStates(logprobs=spread(flat.logprobs), entropy=entropy)


def read_padded(
    policy: Policy, part: MicroBatch, temperature: float, with_entropy: bool
) -> TokenStates:
    """The same by a plain forward pass over padded rows."""
    tokens = part.completion_ids.to(policy.device)
    ids, mask = part.ids.to(policy.device), part.mask.to(policy.device)
    logits = policy.logits(ids, mask, tokens.shape[1] + 1)[:, :-1]
    # a row at a time: the whole batch in float32 would be another copy of the logits
    rows = [
        read_logits(row, chosen, temperature, with_entropy)
        for row, chosen in zip(logits, tokens, strict=True)
    ]
    entropy = [row.entropy for row in rows if row.entropy is not None]
    return TokenStates(
        logprobs=torch.stack([row.logprobs for row in rows]),
        entropy=torch.stack(entropy) if entropy else None,
    )


def made_up_rows(policy: Policy) -> Iterator[tuple[list[int], int, list[int]]]:
    """Rows for a check: (prompt, group, completion), of unequal lengths, two of one group."""
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
    """Of those rows."""
    prompts, groups, completions = zip(*made_up_rows(policy), strict=True)
    return Packing(prompts, groups, completions, policy.device)


def read_made_up(policy: Policy, packing: Packing) -> tuple[torch.Tensor, Head]:
    """What enters the head, and the head."""
    with packed_attention(policy.model), packed(packing):
        return policy.head_states(packing.ids, packing.positions, packing.predictors, packing.roles)


@torch.no_grad()
def why_not_packed(policy: Policy) -> str | None:
    """Compares packed with plain forward passes on made-up rows.

    Returns:
        None if they agree, else what went wrong.
    """
    if policy.sharding.why_not_packed is not None:
        return policy.sharding.why_not_packed
    if policy.steering.trains_head:
        return "the output layer is trained, too"
    try:
        packing = made_up_packing(policy)
        states, head = read_made_up(policy, packing)
        found = head.logits(states)[packing.copies]
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}"  # a model that does not go through these doors
    expected = []
    for prompt, _, completion in made_up_rows(policy):
        ids = torch.tensor([[*prompt, *completion]], device=policy.device)
        expected.append(policy.logits(ids, torch.ones_like(ids), len(completion) + 1)[0, :-1])
    gap = float((torch.cat(expected).float().log_softmax(-1) - found.log_softmax(-1)).abs().max())
    tolerance = 1e-3 if policy.model.dtype == torch.float32 else 0.5
    return None if gap <= tolerance else f"log-probabilities differ by {gap:.2g}"


def first_steered(policy: Policy) -> int:
    """Index of the decoder layer below which nothing is trained; 0 where that is not known."""
    steering = policy.steering
    return steering.layers[0] if isinstance(steering, SteeringVectors) else 0


@torch.no_grad()
def can_skip_layers(policy: Policy) -> bool:
    """Whether a packed pass is the same, bit for bit, without the layers below the steered ones.

    It is not where layers hand on more than their stream.
    """
    packing = made_up_packing(policy)
    streams = Streams(policy.layers, first_steered(policy), packing.ids.numel())
    kept = Kept(streams, num_reads=2)
    try:
        with kept.reading():
            whole, _ = read_made_up(policy, packing)
        with kept.reading():
            skipped, _ = read_made_up(policy, packing)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return torch.equal(whole, skipped)
