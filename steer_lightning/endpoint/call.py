"""A call of the API: which model it asks, and by which settings."""

from __future__ import annotations

import asyncio
import copy
import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from steer_lightning.data import PlainTemplate
from steer_lightning.endpoint.api_error import ApiError, shown
from steer_lightning.endpoint.fields import Fields
from steer_lightning.endpoint.token_texts import TokenTexts
from steer_lightning.inference.loaded_models import LoadedModels, Steered
from steer_lightning.inference.service import Service
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.live_request import LiveRequest

COMMON = {
    *("model", "stream", "stream_options", "n", "seed", "stop", "stop_token_ids"),
    *("temperature", "top_p", "top_k", "min_p"),
}
"""Fields that both endpoints read."""

MOST_STOPS, LONGEST_STOP = 16, 256
LARGEST_TEMPERATURE = 2.0
MOST_ALTERNATIVES = 20
CHARACTERS_PER_TOKEN = 64
"""Largest number of characters a token may stand for before a text is refused unread."""

VERBATIM = PlainTemplate("{question}")
"""Template of prompts that are read as they are."""

Found = TypeVar("Found")


class Api:
    """What the endpoints need: models, the service that answers, and limits.

    Args:
        models: Models that are loaded.
        service: Service that answers.
        timeout: Largest number of seconds from a request to the end of its answer.

    Attributes:
        tokenizer: Tokenizer that encodes prompts.
        texts: Texts of tokens.
    """

    def __init__(self, models: LoadedModels, service: Service, timeout: float = 600.0) -> None:
        self.models, self.service, self.timeout = models, service, timeout
        self.started = int(time.time())
        # copied, because the thread of the service uses the tokenizer at the same time
        self.tokenizer: Any = copy.deepcopy(models.policy.tokenizer)
        self.texts = TokenTexts(self.tokenizer, models.policy.ids_without_text)
        # one thread, because a tokenizer serves one at a time; connections bound what waits for it
        self._aside = ThreadPoolExecutor(1, "texts")
        self.vocab_size: int = models.policy.model_config.get_text_config().vocab_size

    async def aside(self, function: Callable[..., Found], *args: Any) -> Found:
        """Calls a function in another thread, such as for long texts: streams go on meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._aside, function, *args)

    def model(self, name: str) -> Steered:
        """Finds a model; raises an ApiError if there is none of this name."""
        try:
            return self.models.find(name)
        except LookupError as error:
            told = str(error.args[0])
            raise ApiError(told, 404, param="model", code="model_not_found") from error

    def tokens_of(self, text: str, param: str) -> tuple[int, ...]:
        """Encodes a prompt that is read as it is."""
        self.check_text(text, param)
        return tuple(VERBATIM.encode(text, self.tokenizer))

    def check_text(self, text: str, param: str) -> None:
        """Raises an ApiError for text that no tokenizer takes, or that is far too long."""
        if len(text) > CHARACTERS_PER_TOKEN * self.service.max_length:
            raise self._too_long(f"{len(text)} characters", param)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            told = f"{param} contains half of a surrogate pair at character {error.start}"
            raise ApiError(f"{told}. Send valid Unicode", param=param) from error

    def check_tokens(self, tokens: tuple[int, ...], param: str) -> None:
        """Raises an ApiError for a prompt that the base can't read."""
        if not tokens:
            raise ApiError(f"{param} must have at least one token", param=param)
        if len(tokens) >= self.service.max_length:
            raise self._too_long(f"{len(tokens)} tokens", param)

    def room_behind(self, tokens: tuple[int, ...]) -> int:
        """Returns the largest number of tokens of an answer to a prompt."""
        return self.service.max_length - len(tokens)

    def check_room(self, tokens: tuple[int, ...], asked: int, param: str) -> None:
        """Raises an ApiError if an answer may become longer than there is room for."""
        if asked > self.room_behind(tokens):
            most = self.service.max_length
            raise ApiError(
                f"{param} = {asked} and the prompt of {len(tokens)} tokens exceed the {most} "
                f"tokens of this server. Set {param} to {self.room_behind(tokens)} or less, or "
                "send a shorter prompt",
                param=param,
                code="context_length_exceeded",
            )

    def _too_long(self, length: str, param: str) -> ApiError:
        return ApiError(
            f"{param} has {length}, but a prompt and its answer have at most "
            f"{self.service.max_length} tokens on this server. Send a shorter prompt",
            param=param,
            code="context_length_exceeded",
        )


class Call:
    """What a call is in either endpoint: its settings, its requests, and the frame of its answer.

    Args:
        api: What the endpoints need.
        body: Body of the request.
        known: Further fields that the endpoint reads.
        name: Beginning of the ids of its answers.

    Attributes:
        fields: Fields of the request.
        model: Name of the model as it was given.
        steered: What it stands for.
        streams: Whether the answer is streamed.
        with_usage: Whether a stream ends with the numbers of tokens.
        n: Number of answers to each prompt.
        seed: Seed, which is random unless it is given.
        deadline: Time of `time.monotonic` by which the answer must be complete.

    Raises:
        ApiError: If a field is wrong.
    """

    def __init__(
        self, api: Api, body: dict[str, Any], known: Collection[str], name: str = "cmpl"
    ) -> None:
        self.api, self.fields = api, Fields(body, {*COMMON, *known})
        self.model = self.fields.text("model")
        self.steered = api.model(self.model)
        self.streams = self.fields.boolean("stream")
        self.with_usage = self._with_usage()
        self.n = self.fields.integer("n", 1, 1, api.service.max_rows)
        self.seed = self.fields.integer("seed", secrets.randbits(48), 0, 2**63 - 1)
        self.deadline = time.monotonic() + api.timeout
        self._stops = self.fields.texts("stop", MOST_STOPS, LONGEST_STOP)
        self._ends = self.fields.integers("stop_token_ids", MOST_STOPS, api.vocab_size)
        self._id, self._created = f"{name}-{secrets.token_hex(12)}", int(time.time())

    def _with_usage(self) -> bool:
        options = self.fields.get("stream_options")
        if options is None:
            return False
        if not self.streams or not isinstance(options, dict):
            raise ApiError(
                f"stream_options = {shown(options)}: must be an object, and needs stream: true",
                param="stream_options",
            )
        return Fields(options, {"include_usage", "include_obfuscation"}).boolean("include_usage")

    def sampling(self, max_new_tokens: int) -> Sampling:
        """Returns the settings by which answers of at most this length are sampled."""
        fields = self.fields
        return Sampling(
            group_size=self.n,
            temperature=fields.number("temperature", 1.0, 0.0, LARGEST_TEMPERATURE),
            top_p=fields.number("top_p", 1.0, 0.0, 1.0),
            top_k=max(0, fields.integer("top_k", 0, -1, self.api.vocab_size)),
            min_p=fields.number("min_p", 0.0, 0.0, 1.0),
            max_new_tokens=max_new_tokens,
            eos_token_ids=self._ends,
            stop_strings=self._stops,
        )

    def request(
        self,
        tokens: tuple[int, ...],
        sampling: Sampling | None,
        num_alternatives: int | None,
        number: int = 0,
    ) -> LiveRequest:
        """Returns the request for a prompt of the call; see `LiveRequest` for the arguments."""
        return LiveRequest(
            token_ids=tokens,
            vectors=self.steered.vectors,
            scale=self.steered.scale,
            sampling=sampling,
            seed=self.seed,
            number=number,
            num_alternatives=num_alternatives,
            deadline=self.deadline,
        )

    def framed(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Returns an answer, or a part of one that is streamed.

        Args:
            kind: Name of such an object in the API.
            choices: Answers, or parts of them.
            more: Further fields, such as the numbers of tokens.
        """
        head = {"id": self._id, "object": kind, "created": self._created, "model": self.model}
        return {**head, "choices": choices, **more}

    def chunk(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Returns a part of a streamed answer, before the numbers of tokens are known."""
        return self.framed(kind, [choice], **({"usage": None} if self.with_usage else {}))
