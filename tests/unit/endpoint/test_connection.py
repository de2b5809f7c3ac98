"""Clients that stall are cut; others are not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from uvicorn.server import ServerState

from steer_lightning.endpoint import connection
from steer_lightning.endpoint.connection import Connection

SECONDS = 60
"""Longer than anything here takes."""

ASKED = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"

has_ended = threading.Event()


async def endless(request: object) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(2**16)
                await asyncio.sleep(0)  # as between the tokens of an answer
        finally:
            has_ended.set()

    return StreamingResponse(parts())


async def short(request: object) -> PlainTextResponse:
    return PlainTextResponse("an answer")


@contextmanager
def client(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[socket.socket]:
    """A client of a server whose clients may stall for some seconds."""
    monkeypatch.setattr(connection, "STALL_SECONDS", seconds)
    routes = [Route("/endless", endless), Route("/short", short)]
    config = uvicorn.Config(
        Starlette(routes=routes), http=Connection, ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as door:
        running = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        running.start()
        try:
            with socket.create_connection(door.getsockname(), timeout=SECONDS) as found:
                yield found
        finally:
            server.should_exit = True
            running.join()


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended.clear()
    with client(monkeypatch, 0.05) as asking:
        asking.sendall(ASKED % b"endless")
        assert has_ended.wait(SECONDS), "what frees the rows of an answer"
        with suppress(ConnectionResetError):
            while asking.recv(2**20):
                pass  # it would go on for ever


@pytest.mark.parametrize("begun", [b"", b"GET /short HTTP/1.1\r\n", ASKED % b"short" + b"GET /"])
def test_a_client_that_does_not_ask_is_cut(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(monkeypatch, 0.05) as asking:
        asking.sendall(begun)
        told = b""
        while part := asking.recv(2**20):
            told += part
        assert told.endswith(b"an answer" if b"Host" in begun else b"")


class Unconnected(asyncio.Transport):
    """A transport of no connection."""

    def abort(self) -> None:
        pass


def test_clients_that_ask_and_read_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 1000.0)

    async def try_out() -> None:
        config = uvicorn.Config(Starlette(), http=Connection, ws="none", lifespan="off")
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        transport = Unconnected()
        found = Connection(config=config, server_state=state, app_state={}, _loop=loop)
        found.connection_made(transport)
        to_ask = found._to_ask
        found.pause_writing()
        to_read = found._to_read
        assert to_ask is not None
        assert to_read is not None
        found.resume_writing()
        assert to_read.cancelled()
        assert not to_ask.cancelled()
        found.connection_lost(OSError())
        assert to_ask.cancelled()

    asyncio.run(try_out())
