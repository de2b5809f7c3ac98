"""How far vectors move the distribution of each token of an answer, and which layers do it.

All distributions are those of the next token at temperature 1, over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from steer_lightning.model.head import CHUNK_NUMBERS, kl
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.steering import SiteVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowSteering, RowVectors
from steer_lightning.steering.tokens import text_roles

ROWS_TOKENS = 2048
"""Number of tokens of the rows that are read in one pass."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the steered model.

    Attributes:
        prompt_ids: Tokens of the prompt.
        ids: Tokens of the answer.
        vectors: Vectors that steered it.
        scale: Factor on them.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    vectors: SiteVectors
    scale: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """How far the vectors moved the distribution from which a token was drawn.

    Attributes:
        kl: KL of the steered distribution q to the base's p, `sum_x q(x) log(q(x) / p(x))`, in
            nats.
        base: Log-probability of the token under the base, in nats.
        steered: Log-probability of the token with the vectors, in nats.
    """

    kl: float
    base: float
    steered: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A token that could stand at a place.

    Attributes:
        id: The token.
        base: Its probability under the base.
        steered: Its probability with the vectors.
    """

    id: int
    base: float
    steered: float


@dataclass(frozen=True, kw_only=True)
class LayerMove:
    """What leaving out the vector of one layer changes at a place.

    Attributes:
        layer: 0-based index of the layer.
        kl: KL of the steered distribution to the one without this layer's vector, in nats.
        gain: Log-probability of the token minus the one without this layer's vector, in nats.
    """

    layer: int
    kl: float
    gain: float


@torch.no_grad()
def token_moves(flight: LiveFlight, answer: Answer) -> list[Move]:
    """Measures how far the vectors moved each token of an answer.

    Args:
        flight: Flight that is paused.
        answer: Answer to read.

    Returns:
        A move for each token of the answer; NaN where logits are not finite.
    """
    ids = torch.tensor([[*answer.prompt_ids, *answer.ids]], device=flight.policy.device)
    count = len(answer.ids)
    roles, positions = text_roles(ids, count), torch.arange(ids.shape[1], device=ids.device)[None]
    places = torch.arange(ids.shape[1] - count - 1, ids.shape[1] - 1, device=ids.device)
    states = []
    with _read_by(flight, answer, [()]) as policy:
        for owner in (0, 1):
            with policy.with_owners(torch.tensor([owner], device=ids.device)):
                found, head = policy.head_states(ids, positions, places, roles)
            states.append(found)
    size = max(1, CHUNK_NUMBERS // head.weight.shape[0])
    moves = []
    for first in range(0, count, size):
        drawn = ids[0, -count:][first : first + size, None]
        base, steered = (
            (head.logits(x[first : first + size]) * head.factor).log_softmax(-1) for x in states
        )
        columns = (kl(steered, base), base.gather(1, drawn)[:, 0], steered.gather(1, drawn)[:, 0])
        moves += [
            Move(kl=one, base=before, steered=behind)
            for one, before, behind in zip(*(column.tolist() for column in columns), strict=True)
        ]
    return moves


@torch.no_grad()
def choices_at(flight: LiveFlight, answer: Answer, place: int, count: int) -> list[Choice]:
    """Returns the tokens that are likeliest at a place, with or without vectors.

    Args:
        flight: Flight that is paused.
        answer: Answer to read.
        place: Number of the token of the answer, from 0.
        count: Number of the likeliest tokens of each distribution.

    Returns:
        The drawn token and the likeliest ones of both distributions, the likeliest with vectors
        first.
    """
    with _read_by(flight, answer, [()]) as policy:
        base, steered = _distributions(policy, answer, place, [0, 1]).exp()
    count = min(count, len(base))
    tops = [x.topk(count).indices.tolist() for x in (steered, base)]
    tokens = dict.fromkeys([answer.ids[place], *tops[0], *tops[1]])
    found = [Choice(id=x, base=float(base[x]), steered=float(steered[x])) for x in tokens]
    return sorted(found, key=lambda choice: -choice.steered)


@torch.no_grad()
def layer_moves(
    flight: LiveFlight, answer: Answer, place: int, layers: Sequence[int]
) -> list[LayerMove]:
    """Leaves out the vector of one layer after the other, from the first token of the prompt on.

    Args:
        flight: Flight that is paused.
        answer: Answer to read.
        place: Number of the token of the answer, from 0.
        layers: Layers to leave out; see `layer_groups`.
    """
    with _read_by(flight, answer, [(), *[(layer,) for layer in layers]]) as policy:
        found = _distributions(policy, answer, place, range(1, len(layers) + 2))
    whole, without = found[:1], found[1:]
    token = answer.ids[place]
    moved = kl(whole.expand_as(without), without).tolist()
    gains = (whole[0, token] - without[:, token]).tolist()
    return [
        LayerMove(layer=layer, kl=one, gain=gain)
        for layer, one, gain in zip(layers, moved, gains, strict=True)
    ]


def layer_groups(answer: Answer, place: int) -> list[list[int]]:
    """Cuts the steered layers into groups that are read in one pass, for `layer_moves`."""
    layers = list(answer.vectors.layers)
    size = max(1, ROWS_TOKENS // (len(answer.prompt_ids) + place) - 1)
    return [layers[first : first + size] for first in range(0, len(layers), size)]


def _distributions(
    policy: Policy, answer: Answer, place: int, owners: Sequence[int]
) -> torch.Tensor:
    """Returns the log-probabilities (rows, V) float32 at a place, of each owner's model."""
    text = [*answer.prompt_ids, *answer.ids[:place]]
    ids = torch.tensor([text], device=policy.device).expand(len(owners), -1)
    numbers = torch.tensor(list(owners), device=policy.device)
    with policy.with_owners(numbers), policy.with_text_roles(ids, place):
        logits = policy.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    found: torch.Tensor = logits[:, -1].float().log_softmax(-1)
    return found


@contextmanager
def _read_by(
    flight: LiveFlight, answer: Answer, left_out: Sequence[Collection[int]]
) -> Iterator[Policy]:
    """Steers the model of a flight by an answer's vectors, for plain passes within the block.

    Rows of owner 0 are the base's. Owner k > 0 leaves out the layers `left_out[k - 1]`.
    """
    nothing = SteeringVectors([0], scale="none")
    nothing.shaped(answer.vectors.width, answer.vectors.num_layers)
    parts = [nothing.to(flight.policy.device), *[answer.vectors] * len(left_out)]
    steering = RowSteering(parts, [(), *left_out])
    policy = Policy(flight.policy.base, steering=steering)
    policy.tokenizer, policy.sharding = flight.policy.tokenizer, flight.policy.sharding
    policy.adopt(flight.policy.model)
    try:
        assert isinstance(policy.attachment, RowVectors)
        policy.attachment.scales = [0.0, *[answer.scale] * len(left_out)]
        yield policy
    finally:
        policy.attachment.remove()
