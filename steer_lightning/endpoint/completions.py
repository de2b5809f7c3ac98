"""The endpoint `/v1/completions`: prompts that are read as they are."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from steer_lightning.endpoint.answers import Answers, Gathered, usage
from steer_lightning.endpoint.api_error import ApiError, shown
from steer_lightning.endpoint.call import MOST_ALTERNATIVES, Api, Call
from steer_lightning.rollout.live_request import LiveRequest, Piece, TokenFacts

FIELDS = ("prompt", "max_tokens", "logprobs", "echo")
DEFAULT_TOKENS = 16
"""Largest number of tokens of an answer, unless the request says otherwise, as in OpenAI's API."""


class TextCompletion:
    """A call of the endpoint.

    Args:
        api: What the endpoints need.
        body: Body of the request.

    Raises:
        ApiError: If a field is wrong.
    """

    def __init__(self, api: Api, body: dict[str, Any]) -> None:
        self.call, self._api = Call(api, body, FIELDS), api
        fields = self.call.fields
        self.streams = self.call.streams
        self._echo = fields.boolean("echo")
        self._num_top = fields.get("logprobs")
        if self._num_top is not None:
            self._num_top = fields.integer("logprobs", 0, 0, MOST_ALTERNATIVES)
        self._scores = self._echo and self._num_top is not None
        if self._scores and self.streams:
            raise ApiError(
                "echo with logprobs can't be streamed. Set stream: false, or leave out echo or "
                "logprobs",
                param="stream",
                code="unsupported_parameter",
            )
        self._prompts = self._read_prompts()
        least = 0 if self._echo else 1
        most = fields.integer("max_tokens", DEFAULT_TOKENS, least, api.service.max_length)
        for tokens in self._prompts:
            api.check_room(tokens, most, "max_tokens")
        self._sampling = self.call.sampling(most) if most else None
        self.call.sampling(1)  # checks them in any case
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.call.model,
        }

    def _read_prompts(self) -> list[tuple[int, ...]]:
        """Reads a text, a list of tokens, or a list of either."""
        given, api = self.call.fields.get("prompt"), self._api
        several = [given] if isinstance(given, str) or _are_tokens(given) else given
        if not isinstance(several, list) or not several:
            raise ApiError(
                f"prompt = {shown(given)}: must be a text, a list of texts, a list of tokens, or "
                "a list of lists of tokens",
                param="prompt",
            )
        most = api.service.max_requests // 2  # one may also have to be scored
        if len(several) > most:
            raise ApiError(f"prompt has {len(several)} prompts; send up to {most}", param="prompt")
        return [self._read_prompt(prompt) for prompt in several]

    def _read_prompt(self, prompt: object) -> tuple[int, ...]:
        api = self._api
        if isinstance(prompt, str):
            tokens = api.tokens_of(prompt, "prompt")
        elif _are_tokens(prompt):
            assert isinstance(prompt, list)
            tokens = tuple(prompt)
            if not all(0 <= token < api.vocab_size for token in tokens):
                last = api.vocab_size - 1
                raise ApiError(f"prompt must have tokens from 0 to {last}", param="prompt")
        else:
            raise ApiError(f"prompt has {shown(prompt)}, no text or tokens", param="prompt")
        api.check_tokens(tokens, "prompt")
        return tokens

    def start(self) -> Answers:
        """Submits the prompts; see `Service.submit`."""
        answers, call = Answers(self._api.service), self.call
        for number, tokens in enumerate(self._prompts):
            same = {
                "token_ids": tokens,
                "vectors": call.steered.vectors,
                "scale": call.steered.scale,
                "seed": call.seed,
                "number": number,
                "num_alternatives": self._num_top,
                "deadline": call.deadline,
            }
            if self._sampling is not None:
                answers.add(LiveRequest(**same, sampling=self._sampling), number)
            if self._scores:
                answers.add(LiveRequest(**same), number)
        answers.submit()
        return answers

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """Returns the whole answer, as the API has it."""
        gathered = [[Gathered() for _ in range(self.call.n)] for _ in self._prompts]
        scores: list[tuple[TokenFacts, ...]] = [()] * len(self._prompts)
        async for prompt, part in answers.parts():
            if isinstance(part, Piece):
                gathered[prompt][part.choice].add(part)
            else:
                scores[prompt] = part.tokens
        choices = [
            self._choice(prompt, number, completion, scores[prompt])
            for prompt, group in enumerate(gathered)
            for number, completion in enumerate(group)
        ]
        drawn = sum(len(completion.tokens) for group in gathered for completion in group)
        return {**self._head, "choices": choices, "usage": self._usage(drawn)}

    def _choice(
        self, prompt: int, number: int, completion: Gathered, scores: tuple[TokenFacts, ...]
    ) -> dict[str, Any]:
        text = self._echoed(prompt) + completion.text
        tokens = [*scores, *completion.tokens]
        finish = completion.finish or "length"  # nothing was to be drawn
        return self._part(prompt, number, text, tokens, finish, 0)

    async def chunks(self, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        """Yields the parts of a streamed answer, as the API has them."""
        offsets: dict[tuple[int, int], int] = {}
        drawn = 0
        if self._echo:
            for prompt in range(len(self._prompts)):
                for number in range(self.call.n):
                    text = self._echoed(prompt)
                    offsets[prompt, number] = len(text)
                    done = None if self._sampling else "length"
                    yield self._chunk(self._part(prompt, number, text, [], done, 0))
        async for prompt, piece in answers.parts():
            assert isinstance(piece, Piece)
            place = prompt, piece.choice
            offset = offsets.get(place, 0)
            offsets[place] = offset + len(piece.text)
            drawn += len(piece.tokens)
            part = self._part(*place, piece.text, piece.tokens, piece.finish, offset)
            yield self._chunk(part)
        if self.call.with_usage:
            yield {**self._head, "choices": [], "usage": self._usage(drawn)}

    def _chunk(self, part: dict[str, Any]) -> dict[str, Any]:
        told = {"usage": None} if self.call.with_usage else {}
        return {**self._head, "choices": [part], **told}

    def _part(
        self,
        prompt: int,
        number: int,
        text: str,
        tokens: Sequence[TokenFacts],
        finish: str | None,
        offset: int,
    ) -> dict[str, Any]:
        logprobs = None
        if self._num_top is not None:
            logprobs = as_logprobs(self._api, tokens, offset)
        return {
            "index": prompt * self.call.n + number,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _echoed(self, prompt: int) -> str:
        """Returns the text of a prompt, if it is part of the answer."""
        return self._api.text_of(self._prompts[prompt]) if self._echo else ""

    def _usage(self, num_drawn: int) -> dict[str, int]:
        return usage(sum(map(len, self._prompts)), num_drawn)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(x) is int for x in value)


def as_logprobs(api: Api, tokens: Sequence[TokenFacts], offset: int) -> dict[str, Any]:
    """Returns tokens with their log-probabilities in the form of `/v1/completions`.

    Args:
        api: What the endpoints need.
        tokens: Tokens.
        offset: Number of characters before the first token.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(api.text_of([token.id]))
    return {
        "tokens": [api.token_text(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(api, token) for token in tokens],
        "text_offset": offsets,
    }


def _alternatives(api: Api, token: TokenFacts) -> dict[str, float] | None:
    """Returns the likeliest tokens by their text, the token itself among them."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for number, logprob in (*token.alternatives, (token.id, token.logprob)):
        found.setdefault(api.token_text(number), logprob)  # the likeliest token of a text counts
    return found
