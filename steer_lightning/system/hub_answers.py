"""A check that the hub answers, before libraries ask it that would wait without end."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from steer_lightning.errors import ConfigError

SECONDS = 10.0
ENDPOINT = "https://huggingface.co"


def hub_endpoint() -> str:
    """Returns the address of the hub, which `HF_ENDPOINT` may set."""
    return os.environ.get("HF_ENDPOINT", ENDPOINT)


def is_offline() -> bool:
    """Tells whether `HF_HUB_OFFLINE` keeps the libraries from asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("0", "", "FALSE", "NO", "OFF")


def ask(endpoint: str) -> None:
    """Sends the hub a request, and waits for an answer of any kind, an error included.

    Raises:
        OSError: If there is no answer; it holds a `TimeoutError` if the hub is silent.
        ValueError: If the address is none.
    """
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()


def check_hub_answers(key: str, name: str, fix: str) -> None:
    """Raises a ConfigError if the hub accepts a connection and then does not answer.

    Without a network the libraries notice by themselves, and use their cache where they can; if the
    hub is silent, some of their requests wait for ever, and others try again for minutes.

    Args:
        key: Option that names something on the hub.
        name: Value of the option.
        fix: Way to do without the hub, for the message.
    """
    endpoint = hub_endpoint()
    if is_offline() or not endpoint.startswith(("http://", "https://")):
        return
    try:
        ask(endpoint)
    except (TimeoutError, urllib.error.URLError) as error:
        if not isinstance(getattr(error, "reason", error), TimeoutError):
            return
        raise ConfigError(
            key,
            name,
            rule=f"the hub at {endpoint} does not answer within {SECONDS:g} s",
            fix=f"{fix}; or set HF_HUB_OFFLINE=1 in the environment if it has been downloaded "
            "before",
        ) from error
    except (OSError, ValueError):  # the libraries report these themselves
        return
