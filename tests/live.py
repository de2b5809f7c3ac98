"""Live flights of tiny models, and requests to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from steer_lightning.rollout import Sampling
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.rollout.live_request import Event, LiveRequest, Piece, PromptScores
from steer_lightning.steering import SiteVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowSteering
from steer_lightning.testing import BOS, byte_tokenizer, tiny_policy


def tokens_of(text: str) -> tuple[int, ...]:
    """Tokens of a prompt."""
    return (BOS, *byte_tokenizer()(text)["input_ids"])


def live_flight(
    architecture: str = "llama",
    steerings: Sequence[SiteVectors] = (),
    *,
    max_rows: int = 4,
    max_length: int = 64,
    size: float = 0.3,
) -> LiveFlight:
    """A flight on a tiny base; the vectors become random."""
    nothing = SteeringVectors([0], scale="none")
    policy = tiny_policy(architecture, nothing)
    for k, steering in enumerate(steerings):
        steering.build(policy.model)
        generator = torch.Generator().manual_seed(k)
        shape = (len(steering.layers), steering.width)
        steering.set_vectors(size * torch.randn(shape, generator=generator))
    policy.attachment.remove()
    policy.steering = RowSteering([nothing])
    policy.attachment = policy.steering.attach(policy.model)
    return LiveFlight(policy, nothing, max_rows=max_rows, max_length=max_length)


@dataclass
class Asked:
    """A request with what it has been answered."""

    request: LiveRequest
    events: list[Event] = field(default_factory=list)

    @property
    def error(self) -> Exception | None:
        """Error that has ended the answer."""
        return next((event for event in self.events if isinstance(event, Exception)), None)

    @property
    def pieces(self) -> list[Piece]:
        """Pieces of all completions."""
        return [event for event in self.events if isinstance(event, Piece)]

    @property
    def scores(self) -> PromptScores:
        """Log-probabilities of the prompt."""
        (found,) = [event for event in self.events if isinstance(event, PromptScores)]
        return found

    @property
    def answers(self) -> list[tuple[str, tuple[int, ...], str | None]]:
        """Text, tokens and end of each completion."""
        found = []
        for choice in range(self.request.num_choices):
            own = [piece for piece in self.pieces if piece.choice == choice]
            tokens = tuple(token.id for piece in own for token in piece.tokens)
            found.append(("".join(x.text for x in own), tokens, own[-1].finish if own else None))
        return found


def ask(
    text: str = "two words",
    vectors: SiteVectors | None = None,
    *,
    most: int = 12,
    n: int = 1,
    sampling: dict[str, Any] | None = None,
    **options: Any,
) -> Asked:
    """A request that keeps what it is answered."""
    asked = Asked(None)  # type: ignore[arg-type]
    settings = Sampling(group_size=n, max_new_tokens=most, **(sampling or {}))
    asked.request = LiveRequest(
        token_ids=tokens_of(text),
        on_event=asked.events.append,
        vectors=vectors,
        sampling=settings,
        **options,
    )
    return asked


def fly(flight: LiveFlight, asked: Sequence[Asked]) -> None:
    """Answers requests, each of which enters as soon as there is room."""
    waiting = [one.request for one in asked]
    while waiting or not flight.is_empty:
        while waiting and flight.has_room:
            if flight.take(waiting[0]):
                waiting.pop(0)
        flight.drop_overdue()
        flight.step()
