"""The web application: paths, keys, and answers as JSON or as a stream of events."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from steer_lightning.endpoint.answers import Answers
from steer_lightning.endpoint.api_error import ApiError, of_failure
from steer_lightning.endpoint.call import Api
from steer_lightning.endpoint.chat import ChatCompletion
from steer_lightning.endpoint.completions import TextCompletion
from steer_lightning.endpoint.fields import parsed
from steer_lightning.system.printable import indented

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 2**20
"""Largest size of the body of a request."""

BODY_SECONDS = 30.0
"""Largest number of seconds that a client may take to send it."""

Handler = Callable[[Request], Awaitable[Response]]


class Completion(Protocol):
    """A call of an endpoint that answers prompts."""

    streams: bool

    def start(self) -> Answers:
        """Submits the prompts."""

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """Returns the whole answer."""

    def chunks(self, answers: Answers) -> AsyncIterator[dict[str, Any]]:
        """Yields the parts of a streamed answer."""


def _is_of(origin: str, netloc: str) -> bool:
    """Whether a page is of the address that the request was sent to."""
    try:
        return urlsplit(origin).netloc == netloc
    except ValueError:  # half an address of IPv6, for instance
        return False


class App:
    """The paths of the API.

    Args:
        api: What the endpoints need.
        key: Key that each request must have; None if it needs none.
        hosts: Names of the server that requests may address; None allows all. A page of another
            site, which a browser on this machine shows, could otherwise send requests, by a name
            of its own that leads to this machine.
    """

    def __init__(
        self, api: Api, key: str | None = None, hosts: frozenset[str] | None = None
    ) -> None:
        self._api, self._key, self._hosts = api, key, hosts

    def starlette(self) -> Starlette:
        """Returns the application."""
        routes = [
            Route("/health", self._guarded(self._health), methods=["GET"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
            Route("/v1/completions", self._answering(TextCompletion), methods=["POST"]),
            Route("/v1/chat/completions", self._answering(ChatCompletion), methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_path})

    # ---- who may ask

    def _guarded(self, handler: Handler) -> Handler:
        """Returns a handler that checks who asks, and turns errors into those of the API."""

        async def handle(request: Request) -> Response:
            try:
                self._check_sender(request)
                self._api.service.check()
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:  # whatever it is, the client gets an object of the API
                return _refused(_told(error))

        return handle

    def _check_sender(self, request: Request) -> None:
        """Raises an ApiError for a wrong key, or a page of another site."""
        host = request.url.hostname or ""
        if self._hosts is not None and host not in self._hosts:
            raise ApiError(
                f"this server does not answer as {host}. Address it as 127.0.0.1, or start it with "
                "--host and --api-key",
                403,
                code="wrong_host",
            )
        origin = request.headers.get("origin")
        if origin is not None and not _is_of(origin, request.url.netloc):
            raise ApiError("pages of other sites can't use this server", 403, code="wrong_origin")
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self._key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise ApiError(
                "the API key is missing or wrong. Send the header Authorization: Bearer KEY, with "
                "the key that the server was started with",
                401,
                code="invalid_api_key",
            )

    # ---- paths

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "open_requests": self._api.service.num_open})

    async def _models(self, request: Request) -> Response:
        found = [self._as_model(name) for name in self._api.models.names]
        return JSONResponse({"object": "list", "data": found})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._api.model(name)
        return JSONResponse(self._as_model(name))

    def _as_model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._api.started,
            "owned_by": "steer-lightning",
            "base": self._api.models.policy.base,
            "max_model_len": self._api.service.max_length,
        }

    def _answering(self, kind: Callable[[Api, dict[str, Any]], Completion]) -> Handler:
        """Returns the handler of an endpoint that answers prompts."""

        async def handle(request: Request) -> Response:
            content = await _body(request)
            call = await self._api.aside(lambda: kind(self._api, parsed(content)))
            answers = call.start()
            if call.streams:
                events = _as_events(call.chunks(answers), answers)
                return StreamingResponse(events, media_type="text/event-stream")
            return await _unless_gone(request, answers, self._whole(call, answers))

        return self._guarded(handle)

    async def _whole(self, call: Completion, answers: Answers) -> Response:
        """Waits for the whole answer, and writes it."""
        return await self._api.aside(JSONResponse, await call.whole(answers))


async def _body(request: Request) -> bytes:
    """Reads the body of a request, up to its largest size."""

    async def read() -> bytes:
        found = b""
        async for part in request.stream():
            found += part
            if len(found) > MOST_BYTES:
                told = f"the body has more than {MOST_BYTES} bytes. Send a smaller request"
                raise ApiError(told, 413, code="request_too_large")
        return found

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        told = f"the body did not arrive within {BODY_SECONDS:g} s"
        raise ApiError(told, 408, code="timeout") from error


async def _unless_gone(request: Request, answers: Answers, answer: Awaitable[Response]) -> Response:
    """Waits for an answer, and frees its rows if the client goes away before."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        answers.cancel()
        for task in (answering, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _as_events(chunks: AsyncIterator[dict[str, Any]], answers: Answers) -> AsyncIterator[str]:
    """Writes the parts of an answer as server-sent events; an error is the last of them."""
    try:
        async for chunk in chunks:
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent, so it can only be told here
        yield _event(_told(error).body)
    finally:
        answers.cancel()  # also if the client has gone away


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=True)}\n\n"


def _told(error: Exception) -> ApiError:
    """Returns what the client is told of an error, and logs one that nobody expects."""
    told = of_failure(error)
    if told.code == "internal_error":
        log.error("a request failed:\n%s", indented("".join(traceback.format_exception(error))))
    return told


def _refused(error: ApiError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = (
        f"{request.method} {request.url.path} is not part of this API. It has /v1/models, "
        "/v1/completions and /v1/chat/completions"
    )
    return _refused(ApiError(told, error.status_code, code="unknown_url"))
