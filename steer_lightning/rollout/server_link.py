"""The connection to one rollout server, see `serving/rollout_server.py`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import requests

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.serving.rollout_server import TOKEN
from steer_lightning.system.printable import one_line

CONNECT = 10.0
"""Seconds within which a server must accept a connection."""

NOT_NOW = (408, 425, 429)
"""Statuses below 500 by which a server says that it is too slow or too busy, not that the request
is wrong."""

SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "max_tokens": "max_new_tokens",
    "stop_token_ids": "eos_token_ids",
    "stop": "stop_strings",
}
"""Settings of `Sampling` by the names of vLLM's `SamplingParams`."""

Message = Mapping[str, Any]


class LostServer(Exception):
    """Says why a server can't be used any more; another one may do what it was asked for."""


def refusal(address: str, words: str) -> ConfigError:
    """Returns the error for a request that a server does not take, nor would any other.

    Args:
        address: Address of the server.
        words: What the server says.
    """
    names = (ours for name, ours in SETTINGS.items() if re.search(rf"\b{name}\b", words))
    setting = next(names, None)
    return ConfigError(
        "model.engine.addresses" if setting is None else f"model.sampling.{setting}",
        address if setting is None else UNKNOWN,
        rule=f"the rollout server at {one_line(address)} refuses the request: "
        f"{one_line(words.strip().rstrip('.'))}",
        why="It would be refused again, so it is not passed on to another server",
        fix="Change what the server names: a setting of model.sampling, the length of prompts, or "
        "an option with which the server was started, such as --max-model-len"
        if setting is None
        else f"Change {setting} there, or in model.eval_sampling if held-out problems were "
        "answered, or start the server with options that allow it",
    )


class ServerLink:
    """Asks one server.

    Args:
        address: Address of the server, such as `http://127.0.0.1:8765`.
        token: Secret that the server shares with the trainer.
        timeout: Seconds of silence after which the server counts as lost.

    Attributes:
        version: Version of the vectors that the server has; empty if it is not known.
        vectors: Bytes of the vectors that the server has, by layer.
    """

    def __init__(self, address: str, token: str, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self.version = ""
        self.vectors: dict[int, bytes] = {}
        self._options: Any = {
            "headers": {"Authorization": f"Bearer {token}"},
            "timeout": (CONNECT, timeout),
        }

    def info(self) -> dict[str, Any] | None:
        """Returns what the server says of itself; None while it does not answer."""
        try:
            answer = _request("GET", f"{self.address}/info", timeout=CONNECT)
            found = answer.json() if answer.ok else None
        except (requests.RequestException, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def change(self, packed: bytes, *, since: str, to: str) -> bool:
        """Changes vectors of the server, once the completions that it samples have ended.

        Args:
            packed: File of safetensors with the vectors of some layers.
            since: Version that they change; empty if layers that are not in the file become zero.
            to: Version that results.

        Returns:
            Whether the server now has that version; False if it had another one before.

        Raises:
            ConfigError: If the server refuses the request.
            LostServer: If the server does not answer, or has failed.
        """
        params = {"since": since, "to": to}
        return self._asked("PUT", "/vectors", params=params, data=packed).status_code == 200

    def start(self, request: Message, tell: Callable[[Message], None]) -> Callable[[], None] | None:
        """Starts sampling; returns once the server has accepted the request.

        Args:
            request: Request, see `rollout_server.sampled`.
            tell: Function that is called with each message of the server, from another thread. The
                last message has the key `end`, with the reason if the server has been lost.

        Returns:
            Function that abandons the request; None if the server has other vectors by now.

        Raises:
            ConfigError: If the server refuses the request.
            LostServer: If the server does not answer, or has failed.
        """
        answer = self._asked("POST", "/generate", json=request, stream=True)
        if answer.status_code == 409:
            return None

        is_abandoned = threading.Event()

        def read() -> None:
            reason = "it closed the connection"
            try:
                with answer:  # the server notices that it is closed, and ends the completions
                    for line in answer.iter_lines():
                        if is_abandoned.is_set():
                            return
                        tell(json.loads(line))
            except (requests.RequestException, ValueError) as error:
                reason = _short(error)
            tell({"end": reason})

        threading.Thread(target=read, name=f"rollouts of {self.address}", daemon=True).start()
        return is_abandoned.set

    def _asked(self, method: str, path: str, **content: Any) -> requests.Response:
        try:
            answer = _request(method, f"{self.address}{path}", **content, **self._options)
        except requests.RequestException as error:
            raise LostServer(_short(error)) from error
        if answer.status_code == 403:
            raise ConfigError(
                TOKEN,
                "(hidden)",
                rule=f"is not the token of the rollout server at {self.address}",
                why="Nobody but the trainer may change its vectors",
                fix=f"Set the environment variable {TOKEN} to the token that the server has "
                "printed, or start both with the same one",
            )
        status = answer.status_code
        if status in (200, 409):
            return answer
        words = f"status {status}: {_words(answer)}"
        if 400 <= status < 500 and status not in NOT_NOW:
            raise refusal(self.address, words)
        raise LostServer(f"it answers with {words}")


def _request(method: str, url: str, **options: Any) -> requests.Response:
    """Sends a request to the server itself: the token must not reach a proxy."""
    session = requests.Session()
    session.trust_env = False  # neither proxies nor passwords of the environment
    return session.request(method, url, **options)


def _words(answer: requests.Response) -> str:
    """Returns what a server says in an answer of another status than it should have."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    detail = found.get("detail") if isinstance(found, dict) else None
    return (detail if isinstance(detail, str) else answer.text)[:300]


def _short(error: Exception) -> str:
    """Returns the last part of a chain of causes, which says what has happened."""
    return f"{type(error).__name__}: {error}"[:300]
