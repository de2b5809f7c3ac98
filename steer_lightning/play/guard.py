"""What the page's server refuses before Gradio sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]


class Guard:
    """Refuses requests from the pages of other sites, and files of other machines.

    Gradio accepts any name of the server, so that a page of another site could use the model by
    letting its own name point to this machine. It also fetches `file=https://...` for whoever asks.

    Args:
        app: The application behind.
        hosts: Names of the server that requests may address; None allows all.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(
        self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Answers 403, or hands the request on."""
        reason = self._why_not(scope) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": reason.encode()})

    def _why_not(self, scope: Message) -> str | None:
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        netloc = headers.get(b"host", "")
        try:
            host = urlsplit(f"//{netloc}").hostname
            origin = urlsplit(headers.get(b"origin", f"//{netloc}")).netloc
        except ValueError:
            return "the request names no valid server"
        if self._hosts is not None and host not in self._hosts:
            return "this server is not addressed by that name"
        if origin != netloc:
            return "pages of other sites can't use this server"
        _, found, file = scope["path"].partition("file=")
        if found and "://" in file:
            return "files of other machines are not fetched"
        return None
