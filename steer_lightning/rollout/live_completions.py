"""The completions of a live flight, into which requests enter while others are answered."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout.completions import draw, row_uniforms
from steer_lightning.rollout.live_request import Event, Finish, LiveRequest, Piece, TokenFacts
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.text_stream import TextStream
from steer_lightning.system.float64 import finest_on

LEAST_LOGPROB = -9999.0
"""Log-probability of an impossible token, as in OpenAI's API: JSON has no infinite numbers."""

NOT_FINITE = (
    "the logits of the steered model are not finite: the vectors, or the scale, are too large for "
    "the base"
)


class Choice:
    """One completion of a request while it is sampled.

    Args:
        request: Request with `sampling`.
        number: Number of the completion among those of the request.
        uniforms: Random numbers of its tokens, (T,) float64.
        policy: Policy that samples.
    """

    def __init__(
        self, request: LiveRequest, number: int, uniforms: torch.Tensor, policy: Policy
    ) -> None:
        assert request.sampling is not None
        self.request, self.number, self.sampling = request, number, request.sampling
        self.count = 0
        self._uniforms = uniforms
        self._ends = {*policy.eos_token_ids, *request.sampling.eos_token_ids}
        strings = request.sampling.stop_strings
        self._text = TextStream(policy.tokenizer, policy.ids_without_text, strings)
        self._pending: list[TokenFacts] = []

    @property
    def uniform(self) -> float:
        """Random number of the next token."""
        return float(self._uniforms[self.count])

    def take(self, facts: TokenFacts) -> bool:
        """Takes the next token; returns whether the completion has ended with it."""
        self.count += 1
        self._pending.append(facts)
        text = self._text.add(facts.id)
        finish: Finish | None = None
        if facts.id in self._ends or self._text.has_stopped:
            finish = "stop"
        elif self.count == self.sampling.max_new_tokens:
            finish = "length"
        if finish is not None:
            text += self._text.end()
            finish = "stop" if self._text.has_stopped else finish
        if text or finish:
            self._hand_out(text, finish)
        return finish is not None

    def _hand_out(self, text: str, finish: Finish | None) -> None:
        tokens, self._pending = tuple(self._pending), []
        self.request.on_event(Piece(choice=self.number, text=text, tokens=tokens, finish=finish))


class Group:
    """The completions of a request: those that wait for a seat, and those that have one.

    Args:
        request: Request with `sampling`.
        policy: Policy that samples.

    Attributes:
        waiting: Completions that have not begun.
        seats: Seats of those that are sampled.
        prompt: Number of the prompt, as long as a completion has a seat.
        error: Reason why all completions of the request end.
    """

    def __init__(self, request: LiveRequest, policy: Policy) -> None:
        sampling = request.sampling
        assert sampling is not None
        rows = row_uniforms(
            *(request.seed, 0, [request.number]), sampling.group_size, sampling.max_new_tokens
        )
        self.request, self.seats, self.prompt = request, set[int](), 0
        self.waiting = deque(
            Choice(request, number, uniforms, policy) for number, uniforms in enumerate(rows)
        )
        self.error: Exception | None = None


class LiveCompletions:
    """The completions in flight, each in a seat, whose number stands for it; see `Completions`.

    Args:
        policy: Policy that samples.
        num_seats: Largest number of completions at the same time.
        max_length: Largest number of tokens of a prompt with its completion.

    Attributes:
        prompts: Request of each prompt, by the number of the prompt.
        prompt_of: Number of the prompt that each seat answers.
        owner_of: Number of the vectors that steer each prompt.
        lengths: Number of tokens of each prompt.
        ended: Requests that have ended since the list was last emptied.
        broken: Completions that the last `sample` has ended because of logits that are not finite,
            so that their keys and values may not be finite, either.
    """

    def __init__(self, policy: Policy, num_seats: int, max_length: int) -> None:
        self.policy, self.most_tokens = policy, max_length
        self.prompts: list[LiveRequest] = [None] * num_seats  # type: ignore[list-item]
        self.prompt_of, self.owner_of = [0] * num_seats, [0] * num_seats
        self.lengths = [max_length] * num_seats  # as long as one may be, until there is one
        self.ended: list[LiveRequest] = []
        self.broken: list[int] = []
        self._groups: dict[LiveRequest, Group] = {}
        self._choices: dict[int, Choice] = {}  # by seat
        self._free_seats, self._free_prompts = list(range(num_seats)), list(range(num_seats))

    @property
    def num_free(self) -> int:
        """Number of free seats."""
        return len(self._free_seats)

    @property
    def requests(self) -> list[LiveRequest]:
        """Requests of which a completion has begun, and that have not ended."""
        return list(self._groups)

    @property
    def seated(self) -> list[LiveRequest]:
        """Requests with a seat."""
        return [request for request, group in self._groups.items() if group.seats]

    def seat(self, request: LiveRequest, owner: int) -> tuple[int, bool]:
        """Gives a seat to the next completion of a request.

        Args:
            request: Request.
            owner: Number of its vectors.

        Returns:
            Number of the seat, and whether further completions of the request wait for one.
        """
        group = self._groups.get(request)
        if group is None:
            group = self._groups[request] = Group(request, self.policy)
        if not group.seats:
            group.prompt = self._free_prompts.pop()
            self.prompts[group.prompt], self.owner_of[group.prompt] = request, owner
            self.lengths[group.prompt] = len(request.token_ids)
        seat = self._free_seats.pop()
        self.prompt_of[seat], self._choices[seat] = group.prompt, group.waiting.popleft()
        group.seats.add(seat)
        return seat, bool(group.waiting)

    def drop_overdue(self) -> list[int]:
        """Ends requests for which nobody waits any more, or too late; returns their seats."""
        now, seats = time.monotonic(), list[int]()
        for request, group in list(self._groups.items()):
            if request.is_cancelled:
                group.error = InterruptedError("the request was cancelled")
            elif now > request.deadline:
                group.error = TimeoutError("the answer took longer than the server allows")
            else:
                continue
            seats += group.seats
            group.waiting.clear()
            if not group.seats:
                self._end(group)
        for seat in seats:
            self._leave(seat)
        return seats

    def has_failed(self, seat: int) -> bool:
        """Returns False: completions enter the flight as soon as they have a seat."""
        return False

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws the next token of n completions; see `Completions.sample`."""
        seats = rows.tolist()
        self.broken = []
        choices = [self._choices[seat] for seat in seats]
        tokens, ended = torch.zeros_like(rows), [False] * len(seats)
        kinds: dict[tuple[float, ...], list[int]] = {}
        for place, choice in enumerate(choices):
            kinds.setdefault(_kind(choice.sampling), []).append(place)
        for places in kinds.values():
            chosen = logits if len(kinds) == 1 else logits[places]
            drawn, facts = _drawn(chosen, [choices[place] for place in places])
            tokens[places] = drawn
            for place, fact in zip(places, facts, strict=True):
                ended[place] = self._take(seats[place], choices[place], fact)
        for place, choice in enumerate(choices):
            ended[place] |= self._groups[choice.request].error is not None
        for place, seat in enumerate(seats):
            if ended[place]:
                self._leave(seat)
        return tokens, torch.tensor(ended, device=rows.device)

    def _take(self, seat: int, choice: Choice, facts: TokenFacts | None) -> bool:
        """Gives a completion its token, or ends its request; returns whether it has ended."""
        group = self._groups[choice.request]
        if facts is None:
            self.broken.append(seat)
            group.error = FloatingPointError(NOT_FINITE)
            group.waiting.clear()
        return facts is None or group.error is not None or choice.take(facts)

    def _leave(self, seat: int) -> None:
        """Frees the seat of a completion that has ended, and of its prompt with the last one."""
        group = self._groups[self._choices.pop(seat).request]
        group.seats.remove(seat)
        self._free_seats.append(seat)
        if not group.seats:
            self._free_prompts.append(group.prompt)
            self._end(group)

    def _end(self, group: Group) -> None:
        """Ends a request without seats, unless further completions wait for one."""
        if group.waiting:
            return
        del self._groups[group.request]
        if group.error is not None:
            tell(group.request, group.error)
        self.ended.append(group.request)


def tell(request: LiveRequest, event: Event) -> None:
    """Hands a part of the answer to whoever waits for it."""
    if not request.is_cancelled:
        request.on_event(event)


def _kind(sampling: Sampling) -> tuple[float, ...]:
    """Returns the settings that rows must have in common to be drawn together."""
    return (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)


def _drawn(
    logits: torch.Tensor, choices: Sequence[Choice]
) -> tuple[torch.Tensor, list[TokenFacts | None]]:
    """Draws a token for each of n completions with the same settings.

    Args:
        logits: Logits (n, V), which are overwritten.
        choices: The n completions.

    Returns:
        Tokens (n,) int64, and the facts about each; None if its logits are not finite.
    """
    asked = [k for k, x in enumerate(choices) if x.request.num_alternatives is not None]
    # before the draw, which overwrites the logits
    known = log_probabilities(logits[asked]) if asked else logits[:0]
    dtype, device = finest_on(logits.device), logits.device
    uniforms = torch.tensor([x.uniform for x in choices], dtype=dtype, device=device)
    tokens, logprobs = draw(logits, uniforms, choices[0].sampling)
    broken = logprobs.isnan().tolist()
    facts: list[TokenFacts | None] = [
        None if is_broken else TokenFacts(id=token)
        for token, is_broken in zip(tokens.tolist(), broken, strict=True)
    ]
    if asked:
        numbers = [choices[k].request.num_alternatives or 0 for k in asked]
        told = token_facts(known, tokens[asked], numbers)
        for k, fact in zip(asked, told, strict=True):
            facts[k] = None if broken[k] else fact
    return tokens, facts


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Returns the log-probabilities (n, V) float32 of logits (n, V), at temperature 1.

    None is below `LEAST_LOGPROB`.
    """
    return logits.float().log_softmax(-1).clamp(min=LEAST_LOGPROB)


def token_facts(
    logprobs: torch.Tensor, tokens: torch.Tensor, num_alternatives: Sequence[int]
) -> list[TokenFacts]:
    """Returns tokens with their log-probabilities and the most likely alternatives.

    Args:
        logprobs: Log-probabilities (n, V).
        tokens: Tokens (n,) int64.
        num_alternatives: Number of alternatives for each of them.
    """
    own = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    top = logprobs.topk(min(max(num_alternatives), logprobs.shape[1]))
    pairs = [
        tuple(zip(*row, strict=True))
        for row in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    rows = zip(tokens.tolist(), own, pairs, num_alternatives, strict=True)
    return [
        TokenFacts(id=token, logprob=logprob, alternatives=found[:number])
        for token, logprob, found, number in rows
    ]
