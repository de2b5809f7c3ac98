"""The endpoint `/v1/completions`: prompts that are read as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from steer_lightning.endpoint.answers import Answers, Gathered, usage
from steer_lightning.endpoint.api_error import ApiError, shown
from steer_lightning.endpoint.call import MOST_ALTERNATIVES, Api, Call
from steer_lightning.endpoint.token_texts import TokenTexts
from steer_lightning.rollout.live_request import Piece, TokenFacts

FIELDS = ("prompt", "max_tokens", "logprobs", "echo")
KIND = "text_completion"
DEFAULT_TOKENS = 16
"""Largest number of tokens of an answer, unless the request says otherwise, as in OpenAI's API."""


class TextCompletion(Call):
    """A call of the endpoint.

    Args:
        api: What the endpoints need.
        body: Body of the request.

    Raises:
        ApiError: If a field is wrong.
    """

    def __init__(self, api: Api, body: dict[str, Any]) -> None:
        super().__init__(api, body, FIELDS)
        fields = self.fields
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
        sampling = self.sampling(max(1, most))  # checks it in any case
        self._sampling = sampling if most else None
        echoed = self._prompts if self._echo else [()] * len(self._prompts)
        self._echoes = [api.texts.whole(tokens) for tokens in echoed]

    def _read_prompts(self) -> list[tuple[int, ...]]:
        """Reads a text, a list of tokens, or a list of either."""
        given, api = self.fields.get("prompt"), self.api
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
        api = self.api
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
        answers = Answers(self.api.service)
        for number, tokens in enumerate(self._prompts):
            if self._sampling is not None:
                sampled = self.request(tokens, self._sampling, self._num_top, number)
                answers.add(sampled, number)
            if self._scores:
                answers.add(self.request(tokens, None, self._num_top, number), number)
        answers.submit()
        return answers

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """Returns the whole answer, as the API has it."""
        gathered = [[Gathered() for _ in range(self.n)] for _ in self._prompts]
        scores: list[tuple[TokenFacts, ...]] = [()] * len(self._prompts)
        async for prompt, part in answers.parts():
            if isinstance(part, Piece):
                gathered[prompt][part.choice].add(part)
            else:
                scores[prompt] = part.tokens
        choices = await self.api.aside(self._choices, gathered, scores)
        drawn = sum(len(completion.tokens) for group in gathered for completion in group)
        return self.framed(KIND, choices, usage=self._usage(drawn))

    def _choices(
        self, gathered: Sequence[Sequence[Gathered]], scores: Sequence[tuple[TokenFacts, ...]]
    ) -> list[dict[str, Any]]:
        return [
            self._choice(prompt, number, completion, scores[prompt])
            for prompt, group in enumerate(gathered)
            for number, completion in enumerate(group)
        ]

    def _choice(
        self, prompt: int, number: int, completion: Gathered, scores: tuple[TokenFacts, ...]
    ) -> dict[str, Any]:
        text = self._echoes[prompt] + completion.text
        tokens = [*scores, *completion.tokens]
        finish = completion.finish or "length"  # nothing was to be drawn
        return self._part(prompt, number, text, tokens, finish, 0)

    async def chunks(self, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        """Yields the parts of a streamed answer, as the API has them."""
        offsets: dict[tuple[int, int], int] = {}
        drawn = 0
        for prompt, text in enumerate(self._echoes):
            for number in range(self.n if self._echo else 0):
                offsets[prompt, number] = len(text)
                done = None if self._sampling else "length"
                yield self.chunk(KIND, self._part(prompt, number, text, [], done, 0))
        async for prompt, piece in answers.parts():
            assert isinstance(piece, Piece)
            place = prompt, piece.choice
            offset = offsets.get(place, 0)
            offsets[place] = offset + len(piece.text)
            drawn += len(piece.tokens)
            part = self._part(*place, piece.text, piece.tokens, piece.finish, offset)
            yield self.chunk(KIND, part)
        if self.with_usage:
            yield self.framed(KIND, [], usage=self._usage(drawn))

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
            logprobs = as_logprobs(self.api.texts, tokens, offset)
        return {
            "index": prompt * self.n + number,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
        }

    def _usage(self, num_drawn: int) -> dict[str, int]:
        return usage(sum(map(len, self._prompts)), num_drawn)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(x) is int for x in value)


def as_logprobs(texts: TokenTexts, tokens: Sequence[TokenFacts], offset: int) -> dict[str, Any]:
    """Returns tokens with their log-probabilities in the form of `/v1/completions`.

    Args:
        texts: Texts of tokens.
        tokens: Tokens.
        offset: Number of characters before the first token.
    """
    return {
        "tokens": [texts.of(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(texts, token) for token in tokens],
        "text_offset": texts.offsets([token.id for token in tokens], offset),
    }


def _alternatives(texts: TokenTexts, token: TokenFacts) -> dict[str, float] | None:
    """Returns the likeliest tokens by their text, the token itself among them."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for number, logprob in (*token.alternatives, (token.id, token.logprob)):
        found.setdefault(texts.of(number), logprob)  # the likeliest token of a text counts
    return found
