"""A flight without an end: requests enter while others are answered, each with its own vectors."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from steer_lightning.model.head import Head, before_head, head_of
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.cuda_graphs import CapturedPasses, CudaGraphs
from steer_lightning.rollout.decode_engine import Decoder
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.kv_cache import FIRST_COLUMNS, FlightCache
from steer_lightning.rollout.live_completions import (
    NOT_FINITE,
    LiveCompletions,
    log_probabilities,
    tell,
    token_facts,
)
from steer_lightning.rollout.live_request import LiveRequest, PromptScores, TokenFacts
from steer_lightning.steering import SiteVectors
from steer_lightning.steering.row_vectors import RowSteering
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

LOGITS_TOKENS = 256
"""Number of tokens of a scored prompt whose logits over the vocabulary exist at once."""

Arm = tuple[SiteVectors, float]
"""Vectors with the factor on them."""


class LiveFlight:
    """Answers requests on one base, row by row with the vectors that each of them names.

    One thread may use it at a time. Between passes the model can be used for something else, after
    `pause`.

    Args:
        policy: Policy whose base is loaded, with `RowSteering` of `base`.
        base: Vectors that are zero, for requests without vectors.
        max_rows: Largest number of completions at the same time.
        max_length: Largest number of tokens of a prompt with its completion.
    """

    def __init__(
        self, policy: Policy, base: SiteVectors, *, max_rows: int, max_length: int
    ) -> None:
        self.policy, self.max_rows, self.max_length = policy, max_rows, max_length
        self._arms: list[Arm] = [(base, 0.0)]  # the number of an arm is that of its rows' owner
        self._has_new_arm = True
        self._leg: ExitStack | None = None
        self._can_capture = policy.device.type == "cuda"
        self._begin()
        self.pause()

    def _begin(self) -> None:
        """Makes an empty flight, whose memory is taken as it is needed."""
        self.completions = LiveCompletions(self.policy, self.max_rows, self.max_length)
        self._flight = Flight(
            self.completions.lengths,
            self.completions.prompt_of,
            self.completions.owner_of,
            max_rows=self.max_rows,
            max_prompts=self.max_rows,
            max_columns=self.max_length,
            device=self.policy.device,
        )
        policy, flight = self.policy, self._flight
        self._cache = FlightCache(policy.model, flight, is_recurrent=bool(policy.mixers))
        self._decoder = Decoder(policy, flight, self.completions, self._cache)
        self._decoder.least_room = 1  # somebody waits for each answer
        self._waiting: deque[int] = deque()

    # ---- answering

    @property
    def is_empty(self) -> bool:
        """Whether no request has entered that has not ended."""
        return not self.completions.requests

    @property
    def has_room(self) -> bool:
        """Whether a row is free."""
        return self.completions.num_free > 0

    def take(self, request: LiveRequest) -> bool:
        """Lets the next completion of a request enter, for which there must be room.

        A request may enter bit by bit, so that one with many completions does not keep others out.

        Returns:
            Whether all completions of the request have entered.
        """
        seat, has_more = self.completions.seat(request, self._owner_of(request))
        self._waiting.append(seat)
        return not has_more

    def drop_overdue(self) -> list[LiveRequest]:
        """Ends requests that are cancelled or late, and frees their rows; returns them.

        Such a request gets no further token, whether all of its completions have entered or not.
        """
        gone = set(self.completions.drop_overdue())
        self._waiting = deque(seat for seat in self._waiting if seat not in gone)
        rows = enumerate(self._flight.rows)
        slots = [slot for slot, row in rows if not gone.isdisjoint(row)]
        if slots:  # completions that share a row belong to one request
            with self.policy.sharding.without_gradients():
                self._decoder.release(slots)
        return self._ended()

    def _ended(self) -> list[LiveRequest]:
        ended, self.completions.ended = self.completions.ended, []
        return ended

    def _owner_of(self, request: LiveRequest) -> int:
        """Returns the number of a request's arm, which is new if no row has had it before."""
        vectors, scale = request.vectors, request.scale
        if vectors is None or scale == 0:
            return 0
        for number, (known, factor) in enumerate(self._arms):
            if known is vectors and factor == scale and number > 0:
                return number
        used = {0, *map(self._arms.index, map(self._arm_of, self.completions.seated))}
        free = [number for number in range(len(self._arms)) if number not in used]
        number = free[0] if free and len(self._arms) > self.max_rows else len(self._arms)
        self._arms[number : number + 1] = [(vectors, scale)]
        self._has_new_arm = True
        return number

    def _arm_of(self, request: LiveRequest) -> Arm:
        if request.vectors is None or request.scale == 0:
            return self._arms[0]
        return request.vectors, request.scale

    def step(self) -> list[LiveRequest]:
        """Draws one more token for each completion in flight; returns requests that have ended."""
        with self.policy.sharding.without_gradients():
            self._resume()
            self._decoder.refill(self._waiting)
            if self._flight.num_rows:
                self._decoder.step()
        ended = self._ended()
        self._note_capture()
        if self.is_empty and self._is_too_large:
            self.drop()
        return ended

    @property
    def _is_too_large(self) -> bool:
        """Whether a long answer has made the tails of all rows long.

        Graphs read the tails where they are. So they are kept together, since the next answers
        would only capture the passes again; memory that has sufficed will suffice.
        """
        longest = max(layer.num_columns for layer in self._cache.layers)
        return longest > FIRST_COLUMNS and self._decoder.captured is None

    def drop(self) -> list[LiveRequest]:
        """Forgets all requests and their memory, such as after an error; returns the requests."""
        left = [*self.completions.requests, *self.completions.ended]
        self.pause()
        self._begin()
        return left

    # ---- taking turns with other uses of the model

    def _resume(self) -> None:
        """Makes the model attend through the flight, and steers its rows."""
        if self._leg is not None and not self._has_new_arm:
            return
        self.pause()
        if self._has_new_arm:
            self._attach()
        self.policy.attachment.is_paused = False
        with ExitStack() as leg:
            leg.enter_context(self._cache.decoding())
            leg.enter_context(self.policy.constant_vectors())
            self._leg = leg.pop_all()
        if self._can_capture:  # a graph reads the vectors at the addresses at which it found them
            self._decoder.captured = CapturedPasses(self._flight, self._cache, CudaGraphs())

    def pause(self) -> None:
        """Leaves the model as it is without the flight, until the next `step`."""
        if self._leg is not None:
            self._leg.close()
            self._leg = None
        self.policy.attachment.is_paused = True

    def _attach(self) -> None:
        """Steers by the arms as they are now."""
        policy = self.policy
        policy.attachment.remove()
        steering = RowSteering([vectors for vectors, _ in self._arms])
        policy.steering, policy.attachment = steering, steering.attach(policy.model)
        policy.attachment.scales = [scale for _, scale in self._arms]
        self._has_new_arm = False

    def _note_capture(self) -> None:
        captured = self._decoder.captured
        if captured is not None and captured.failure is not None:
            self._can_capture, self._decoder.captured = False, None
            log.warning(
                "passes of this model can't be captured as CUDA graphs (%s): they run without "
                "graphs, which is slower",
                one_line(captured.failure),
            )

    # ---- scoring

    def score(self, request: LiveRequest) -> None:
        """Reads the prompt of a request, and hands out the log-probabilities of its tokens.

        This is a plain pass over a single text, all of which counts as prompt for vectors that
        steer only some tokens.
        """
        owner = self._owner_of(request)
        with self.policy.sharding.without_gradients():
            self.pause()
            if self._has_new_arm:
                self._attach()
            self.policy.attachment.is_paused = False
            try:
                facts = self._scores(request.token_ids, owner, request.num_alternatives or 0)
            finally:
                self.policy.attachment.is_paused = True
        tell(request, PromptScores(tokens=tuple(facts)))

    def _scores(self, tokens: Sequence[int], owner: int, num_top: int) -> list[TokenFacts]:
        policy, device = self.policy, self.policy.device
        ids = torch.tensor([tokens], device=device)
        owners = torch.tensor([owner], device=device)
        kept: list[tuple[torch.Tensor, Head]] = []

        def keep(layer: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            kept.append((inputs[0][0], head_of(policy.model, layer, policy.logit_factor)))
            return (inputs[0][:, :1],)  # all logits at once may take more memory than the base

        owned, with_roles = policy.with_owners(owners), policy.with_text_roles(ids, 0)
        with owned, with_roles, before_head(policy.model, keep):
            policy.model(input_ids=ids, use_cache=False)
        ((states, head),) = kept
        facts = [TokenFacts(id=tokens[0])]
        for first in range(0, len(tokens) - 1, LOGITS_TOKENS):
            some = states[first : first + LOGITS_TOKENS][: len(tokens) - 1 - first]
            behind = ids[0, first + 1 : first + 1 + len(some)]
            logprobs = log_probabilities(head.differentiable_logits(some))
            if bool(logprobs.isnan().any()):
                raise FloatingPointError(NOT_FINITE)
            facts += token_facts(logprobs, behind, [num_top] * len(some))
        return facts
