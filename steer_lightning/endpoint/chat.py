"""The endpoint `/v1/chat/completions`: conversations, rendered by a template."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from steer_lightning.data import ChatTemplate, Template
from steer_lightning.data.templates import RAISED, render
from steer_lightning.endpoint.answers import Answers, Gathered, usage
from steer_lightning.endpoint.api_error import ApiError, shown
from steer_lightning.endpoint.call import MOST_ALTERNATIVES, Api, Call
from steer_lightning.errors import ConfigError
from steer_lightning.rollout.live_request import Piece, TokenFacts

FIELDS = ("messages", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs")
CHUNK = "chat.completion.chunk"
ROLES = ("system", "developer", "user", "assistant")

Messages = list[dict[str, str]]


class ChatCompletion(Call):
    """A call of the endpoint.

    Args:
        api: What the endpoints need.
        body: Body of the request.

    Raises:
        ApiError: If a field is wrong.
    """

    def __init__(self, api: Api, body: dict[str, Any]) -> None:
        super().__init__(api, body, FIELDS, "chatcmpl")
        self._num_top = self._num_alternatives()
        self._tokens = self._read_messages()
        newer = "max_completion_tokens"
        name = "max_tokens" if self.fields.get(newer) is None else newer
        rest = api.room_behind(self._tokens)
        most = self.fields.integer(name, rest, 1, api.service.max_length)
        api.check_room(self._tokens, most, name)
        self._sampling = self.sampling(most)

    def _num_alternatives(self) -> int | None:
        num_top = self.fields.integer("top_logprobs", 0, 0, MOST_ALTERNATIVES)
        if self.fields.boolean("logprobs"):
            return num_top
        if num_top:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        return None

    def _read_messages(self) -> tuple[int, ...]:
        """Renders the conversation, and encodes it."""
        messages, api = messages_of(self.fields.get("messages")), self.api
        for message in messages:
            api.check_text(message["content"], "messages")
        if api.models.template is None:
            raise ApiError(
                f"{api.models.policy.base} has no chat template. Use /v1/completions, or start "
                "the server with --template",
                param="messages",
                code="no_chat_template",
            )
        text = rendered(api.models.template, messages, api.tokenizer)
        tokens = tuple(api.models.template.encode(text, api.tokenizer))
        api.check_tokens(tokens, "messages")
        return tokens

    def start(self) -> Answers:
        """Submits the conversation; see `Service.submit`."""
        answers = Answers(self.api.service)
        answers.add(self.request(self._tokens, self._sampling, self._num_top), 0)
        answers.submit()
        return answers

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """Returns the whole answer, as the API has it."""
        gathered = [Gathered() for _ in range(self.n)]
        async for _, piece in answers.parts():
            assert isinstance(piece, Piece)
            gathered[piece.choice].add(piece)
        choices = await self.api.aside(self._choices, gathered)
        drawn = sum(len(found.tokens) for found in gathered)
        return self.framed("chat.completion", choices, usage=usage(len(self._tokens), drawn))

    def _choices(self, gathered: Sequence[Gathered]) -> list[dict[str, Any]]:
        return [
            {
                "index": number,
                "message": {"role": "assistant", "content": found.text, "refusal": None},
                "logprobs": self._logprobs(found.tokens),
                "finish_reason": found.finish,
            }
            for number, found in enumerate(gathered)
        ]

    async def chunks(self, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        """Yields the parts of a streamed answer, as the API has them."""
        for number in range(self.n):
            yield self._part(number, {"role": "assistant", "content": ""}, [], None)
        drawn = 0
        async for _, piece in answers.parts():
            assert isinstance(piece, Piece)
            drawn += len(piece.tokens)
            delta = {"content": piece.text} if piece.text or piece.tokens else {}
            yield self._part(piece.choice, delta, piece.tokens, piece.finish)
        if self.with_usage:
            yield self.framed(CHUNK, [], usage=usage(len(self._tokens), drawn))

    def _part(
        self, number: int, delta: dict[str, Any], tokens: Sequence[TokenFacts], finish: str | None
    ) -> dict[str, Any]:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish,
        }
        return self.chunk(CHUNK, choice)

    def _logprobs(self, tokens: Sequence[TokenFacts]) -> dict[str, Any] | None:
        if self._num_top is None:
            return None
        return {"content": [self._told(token) for token in tokens], "refusal": None}

    def _told(self, token: TokenFacts) -> dict[str, Any]:
        assert token.logprob is not None
        others = [self._one(*pair) for pair in token.alternatives]
        return {**self._one(token.id, token.logprob), "top_logprobs": others}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        texts = self.api.texts
        return {"token": texts.of(token), "logprob": logprob, "bytes": list(texts.bytes_of(token))}


def messages_of(value: Any) -> Messages:
    """Reads messages, whose content is text or a list of parts that are text.

    Raises:
        ApiError: If they are no messages, or contain something other than text.
    """
    if not isinstance(value, list) or not value:
        rule = "must be a list of at least one message, with role and content"
        raise ApiError(f"messages = {shown(value)}: {rule}", param="messages")
    return [_message_of(message, f"messages[{k}]") for k, message in enumerate(value)]


def _message_of(message: Any, param: str) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = shown(message.get("role") if isinstance(message, dict) else message)
        raise ApiError(f"{param}.role = {role}: must be one of {', '.join(ROLES)}", param=param)
    # clients send messages back with all fields that they know, most of which are null
    others = [key for key, x in message.items() if key not in ("role", "content", "name") and x]
    if others:
        raise ApiError(f"{param} has {', '.join(map(shown, others))}: send text only", param=param)
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": _text_of(message.get("content"), f"{param}.content")}


def _text_of(content: Any, param: str) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    is_right = isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in parts
    )
    if not is_right:
        raise ApiError(f"{param} = {shown(content)}: must be text", param=param)
    return "".join(part["text"] for part in parts)


def rendered(template: Template, messages: Messages, tokenizer: Any) -> str:
    """Renders a conversation by a template, such as that of a run.

    Raises:
        ApiError: If the template has no place for a message.
    """
    if isinstance(template, ChatTemplate):
        return _by_chat_template(template, messages, tokenizer)
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise ApiError(
            f"{type(template).__name__}, the template of this server, takes a single message of "
            "the user. Send one, or use /v1/completions with a prompt of your own",
            param="messages",
        )
    try:
        return render(template, messages[0]["content"], tokenizer)
    except ConfigError as error:
        raise ApiError(f"{error.rule}. {error.why}", param="messages") from error


def _by_chat_template(template: ChatTemplate, messages: Messages, tokenizer: Any) -> str:
    if template.system and not any(message["role"] == "system" for message in messages):
        first = next((k for k, x in enumerate(messages) if x["role"] == "user"), None)
        if not template.system_in_user:
            messages = [{"role": "system", "content": template.system}, *messages]
        elif first is not None:
            own = template.messages(messages[first]["content"])
            messages = [*messages[:first], *own, *messages[first + 1 :]]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template.options
        )
    except RAISED as error:  # such as two messages of the user in a row
        told = str(error) or type(error).__name__
        raise ApiError(
            f"the model's chat template refuses the messages: {told}", param="messages"
        ) from error
    return text
