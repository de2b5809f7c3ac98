"""Checks that the hub answers, before libraries use it that would wait or retry for a long time."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

from steer_lightning.errors import ConfigError
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

SECONDS = 10.0
ENDPOINT = "https://huggingface.co"
UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


def hub_endpoint() -> str:
    """Returns the address of the hub, which `HF_ENDPOINT` can set."""
    return os.environ.get("HF_ENDPOINT", ENDPOINT)


def is_offline() -> bool:
    """Tells whether `HF_HUB_OFFLINE` keeps the libraries from contacting the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("0", "", "FALSE", "NO", "OFF")


def ask(endpoint: str) -> None:
    """Sends the hub a request, and waits for an answer of any kind, including an error.

    Raises:
        OSError: If there is no answer; it contains a `TimeoutError` if the hub is silent.
        ValueError: If the address is not valid.
    """
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()


@contextmanager
def hub_or_cache(key: str, name: str, fix: str) -> Iterator[None]:
    """Makes libraries use only their cache within the block if the hub can't be reached.

    Otherwise, they would retry for a minute before they use the cache.

    Args:
        key: Option that names something on the hub.
        name: Value of the option.
        fix: How to do without the hub, for the message.

    Raises:
        ConfigError: If the hub accepts a connection and then does not answer.
    """
    reason = why_unreachable(key, name, fix)
    if reason is None:
        yield
        return
    log.warning("the hub can't be reached (%s): only its local cache is used", one_line(reason))
    before = constants.HF_HUB_OFFLINE
    _set_offline(True)
    try:
        yield
    finally:
        _set_offline(before)


def _set_offline(value: bool) -> None:
    constants.HF_HUB_OFFLINE = value
    data_sets = sys.modules.get("datasets.config")
    if data_sets is not None:  # it copied the value when it was imported
        data_sets.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


def why_unreachable(key: str, name: str, fix: str) -> str | None:
    """Sends the hub a request, and waits for any answer.

    If the hub is silent, some requests of the libraries would wait forever.

    Args:
        key: Option that names something on the hub.
        name: Value of the option.
        fix: How to do without the hub, for the message.

    Returns:
        Reason why there is no connection; None if there is one, or the hub must not be contacted.

    Raises:
        ConfigError: If the hub accepts a connection and then does not answer.
    """
    endpoint = hub_endpoint()
    if is_offline() or not endpoint.startswith(("http://", "https://")):
        return None
    try:
        ask(endpoint)
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise ConfigError(
                key,
                name,
                rule=f"the hub at {endpoint} does not answer within {SECONDS:g} s",
                fix=f"{fix}; or set HF_HUB_OFFLINE=1 in the environment if it has been downloaded "
                "before",
            ) from error
        # other errors, such as those of certificates, may not occur in the libraries
        number = getattr(reason, "errno", None)
        if isinstance(reason, socket.gaierror) or number in UNREACHABLE:
            return f"{endpoint}: {os.strerror(number) if number in UNREACHABLE else reason}"
    return None
