"""The server: its address, its key, and its life from the loaded base to the last answer."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from steer_lightning.data import Template
from steer_lightning.endpoint.call import Api
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.inference.loaded_models import LoadedModels
from steer_lightning.inference.service import Service
from steer_lightning.system.extras import install_command
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

KEY_VARIABLE = "STEER_LIGHTNING_API_KEY"
"""Environment variable of the key, which other users of the machine can't see in a process list."""

SPARE_CONNECTIONS = 64
"""Number of connections beside those of requests that are answered; to others, the server sends
status 503."""


class Endpoint:
    """Serves a base and vectors by the OpenAI API.

    Args:
        vectors: File of vectors, or folder of a run; or a list of these. Null serves only the base.
        base: Base model: hub id, local folder or `quickstart`; null takes the one that the files
            name.
        template: Template that renders conversations for `/v1/chat/completions`; null takes that of
            the run, or otherwise the model's own chat template.
        host: Address at which the server listens. Any other than one of this machine itself needs a
            key.
        port: Port at which the server listens; 0 takes a free one.
        api_key: Key that each request must send. Set it by the environment variable
            `STEER_LIGHTNING_API_KEY` instead where other users could see the command line.
        max_length: Largest number of tokens of a prompt with its answer, at least 32; null takes
            the smaller of the base's positions and 4,096.
        max_rows: Largest number of answers that are sampled at the same time; others wait.
        max_requests: Largest number of prompts that wait or are answered; further ones are refused.
        timeout: Largest number of seconds from a request to the end of its answer.
        device: Device of the model; `auto` takes a GPU if there is one.
        dtype: Dtype of the base.
        revision: Revision of the base on the hub.
        trust_remote_code: Whether to run code that comes with the base; `base` must then be given.

    Raises:
        ConfigError: If a setting is out of range, the port is in use, or vectors do not fit the
            base; all before the base loads.
    """

    def __init__(
        self,
        vectors: str | list[str] | None = None,
        base: str | None = None,
        template: Template | None = None,
        host: str = "127.0.0.1",
        port: int = 8000,
        api_key: str | None = None,
        max_length: int | None = None,
        max_rows: int = 32,
        max_requests: int = 256,
        timeout: float = 600.0,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        _check_extra()
        check_ranges(port, timeout)
        if max_requests < 2:
            raise ConfigError("max_requests", max_requests, rule="must be at least 2")
        self.host, self.max_requests, self.timeout = host, max_requests, timeout
        self.key = _key(api_key, host)
        paths = [vectors] if isinstance(vectors, str) else list(vectors or [])
        self.models = LoadedModels(
            paths,
            base,
            template=template,
            max_length=max_length,
            max_rows=max_rows,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        self.socket = bound_socket(host, port)
        self.port: int = self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Address for clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    def run(self, on_ready: Callable[[], None]) -> None:
        """Loads the base and serves until SIGTERM or Ctrl-C; answers under way are completed.

        Args:
            on_ready: Function that is called when the server listens.
        """
        import uvicorn  # of an extra, without which the options can still be listed

        from steer_lightning.endpoint.app import App
        from steer_lightning.endpoint.connection import Connection

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                on_ready()  # not before it handles signals

        if not is_local(self.host):
            log.warning(
                "the server listens at %s: whoever reaches this machine and has the key can use "
                "the model. Keys and texts are sent unencrypted",
                one_line(self.host),
            )
        service = Service(self.models.load(), self.max_requests)
        try:
            api = Api(self.models, service, self.timeout)
            hosts = frozenset({self.host, *LOCAL}) if is_local(self.host) else None
            config = uvicorn.Config(
                App(api, self.key, hosts).starlette(),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                http=Connection,
                ws="none",
                limit_concurrency=self.max_requests + SPARE_CONNECTIONS,
                timeout_graceful_shutdown=math.ceil(self.timeout),
            )
            Server(config).run(sockets=[self.socket])
        finally:
            service.close()


def _check_extra() -> None:
    """Raises a ConfigError if the libraries of the server are not installed."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "serve",
            UNKNOWN,
            rule=f"needs {' and '.join(missing)}",
            fix=f"Run {install_command('serve')}",
        )


LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names by which a client on this machine may address the server."""


def is_local(host: str) -> bool:
    """Returns whether only this machine itself reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(given: str | None, host: str) -> str | None:
    """Returns the key of the server.

    Raises:
        ConfigError: If it is empty, or others than this machine reach the server without one.
    """
    key = os.environ.get(KEY_VARIABLE) if given is None else given
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise ConfigError(
            "api_key", UNKNOWN, rule="must be ASCII text without spaces, and not empty"
        )
    if key is None and not is_local(host):
        raise ConfigError(
            "host",
            host,
            rule="needs a key",
            why="Others than this machine reach the server there",
            fix=f"Set the environment variable {KEY_VARIABLE}, or --api-key, or leave --host out",
        )
    return key


def check_ranges(port: int, timeout: float) -> None:
    """Raises a ConfigError for a port or a time that no server can have."""
    if not 0 <= port <= 65535:
        raise ConfigError("port", port, rule="must be from 0 to 65535")
    if not 0 < timeout < math.inf:
        raise ConfigError("timeout", timeout, rule="must be above 0 and finite")


def bound_socket(host: str, port: int) -> socket.socket:
    """Takes a port at once, so that a mistake shows before the base loads.

    Clients that come before it has loaded wait.

    Raises:
        ConfigError: If it can't be taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("host", host, rule=f"is no address here ({error.strerror})") from error
    try:
        if os.name == "posix":  # a server that has just ended does not block the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # a port that is only bound can be taken by a second server, too
    except OSError as error:
        bound.close()
        raise ConfigError(
            "port",
            port,
            rule=f"can't be taken at {host} ({error.strerror})",
            fix="End the other server, set another --port, or --port 0 for a free one",
        ) from error
    return bound
