"""What a live flight is asked, and what it hands out while it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from steer_lightning.rollout.sampling import Sampling
from steer_lightning.steering import SiteVectors

Finish = Literal["stop", "length"]
"""Why a completion has ended: by an EOS token or a stop string, or at its largest length."""


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """A token with its log-probability under the steered model, at temperature 1."""

    id: int
    logprob: float | None = None
    """Log-probability in nats; None if it was not asked for, or nothing stands before the token."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this place with their log-probabilities, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of a completion."""

    choice: int
    """Number of the completion among those of the request."""
    text: str
    """Text of the piece; those of all pieces together are the text of the completion."""
    tokens: tuple[TokenFacts, ...]
    """Tokens drawn since the last piece. The last piece has the EOS token, too."""
    finish: Finish | None = None
    """Why the completion has ended; None if pieces follow."""


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """The log-probabilities of the tokens of a prompt."""

    tokens: tuple[TokenFacts, ...]


Event = Piece | PromptScores | Exception
"""Part of an answer; an exception ends it."""


def unheard(event: Event) -> None:
    """Lets a part of an answer pass that nobody waits for."""


@dataclass(kw_only=True, eq=False)
class LiveRequest:
    """A prompt that is to be answered, or scored, by the base with some vectors.

    Attributes:
        token_ids: Tokens of the prompt, at least one.
        on_event: Function that takes each part of the answer. The thread of the engine calls it, so
            it should return at once.
        vectors: Vectors that steer the answer; None for the base itself.
        scale: Factor on the vectors.
        sampling: Settings of the completions, `group_size` of them; None if the prompt is only to
            be scored, which is a `PromptScores`.
        seed: Seed of the completions. The same request has the same completions, whichever others
            are answered at the same time.
        number: Number of the prompt among those with the same seed.
        num_alternatives: Number of likely tokens to name at each place; None asks for no
            log-probabilities.
        deadline: Time of `time.monotonic` at which the answer ends with a `TimeoutError`.
        is_cancelled: Whether nobody waits for the answer any more. Any thread may set it.
    """

    token_ids: tuple[int, ...]
    on_event: Callable[[Event], None] = unheard
    vectors: SiteVectors | None = None
    scale: float = 1.0
    sampling: Sampling | None = None
    seed: int = 0
    number: int = 0
    num_alternatives: int | None = None
    deadline: float = math.inf
    is_cancelled: bool = field(default=False, init=False)

    @property
    def num_choices(self) -> int:
        """Number of completions."""
        return self.sampling.group_size if self.sampling else 0
