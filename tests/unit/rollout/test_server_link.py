from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from steer_lightning.errors import ConfigError
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.served_rows import settings_of
from steer_lightning.rollout.server_link import LostServer, ServerLink, refusal
from steer_lightning.serving.rollout_server import version_of
from steer_lightning.testing import save_tiny
from tests.rollout_stand_in import TOKEN, StandIn


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(save_tiny(tmp_path)) as found:
        yield found


def versions(*first: float) -> list[str]:
    """Versions of vectors whose first number in layer 1 is given; the others are 0."""
    rows = torch.zeros(3, 32)
    found = []
    for number in first:
        rows[1, 0] = number
        found.append(version_of({k: rows[k].numpy().tobytes() for k in range(3)}))
    return found


def packed(number: float) -> bytes:
    row = torch.zeros(32)
    row[0] = number
    content: bytes = save({"1": row})
    return content


def request(server: StandIn) -> dict[str, Any]:
    settings = settings_of(Sampling(max_new_tokens=2), [])
    rows = [(0, 0, 5), (1, 0, 6)]
    return {"version": server.version, "prompts": [[3, 4]], "rows": rows, "sampling": settings}


def test_it_asks_for_facts_and_changes_vectors(server: StandIn) -> None:
    link = ServerLink(server.address, TOKEN, 5)
    facts = link.info()
    zero, one, two = versions(0, 1, 2)
    assert facts is not None
    assert (facts["width"], facts["version"]) == (32, zero)
    assert link.change(packed(1), since=zero, to=one)
    assert not link.change(packed(2), since=zero, to=two)  # it has others by now
    assert server.version == one
    assert link.change(packed(2), since="", to=two)
    assert server.version == two


def test_it_tells_of_each_row_and_of_the_end(server: StandIn) -> None:
    link, told = ServerLink(server.address, TOKEN, 5), queue.SimpleQueue[Any]()
    assert link.start(request(server), told.put) is not None
    found = []
    while "end" not in (message := told.get(timeout=10)):
        found += [message["row"]] if "row" in message else []
    assert found == [0, 1]
    assert link.start({**request(server), "version": "another"}, told.put) is None


def test_no_proxy_sees_the_token(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    link = ServerLink(server.address, TOKEN, 5)
    assert link.info() is not None
    assert link.change(packed(1), since="", to=versions(1)[0])


def test_an_abandoned_request_is_closed(server: StandIn) -> None:
    """The server notices it, since it can't write any more."""
    server.faults.hangs_after = 1
    link, told = ServerLink(server.address, TOKEN, 5), queue.SimpleQueue[Any]()
    abandon = link.start(request(server), told.put)
    assert abandon is not None
    told.get(timeout=10)
    abandon()
    assert link.change(packed(1), since="", to=versions(1)[0])  # which waits for the end


def test_another_token_is_refused_with_the_remedy(server: StandIn) -> None:
    link = ServerLink(server.address, "another", 5)
    before = server.version
    with pytest.raises(ConfigError, match=r"_ROLLOUT_TOKEN.*not the token") as caught:
        link.change(packed(1), since="", to=versions(1)[0])
    assert "another" not in str(caught.value)  # a secret must not be shown
    with pytest.raises(ConfigError, match="not the token"):
        link.start(request(server), print)
    assert server.version == before
    assert not server.requests


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_request_that_is_refused_is_a_mistake_and_no_lost_server(
    server: StandIn, status: int
) -> None:
    server.faults.status, server.faults.words = status, "The prompt is too long."
    link = ServerLink(server.address, TOKEN, 5)
    told = rf"{server.address} refuses the request: status {status}: The prompt is too long\. It.*"
    for ask in (
        lambda: link.change(b"", since="", to=""),
        lambda: link.start(request(server), print),
    ):
        with pytest.raises(ConfigError, match=told + "--max-model-len") as caught:
            ask()
        assert caught.value.key == "model.engine.addresses"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_server_that_fails_or_is_too_busy_is_lost(server: StandIn, status: int) -> None:
    server.faults.status, server.faults.words = status, "not now"
    link = ServerLink(server.address, TOKEN, 5)
    with pytest.raises(LostServer, match=f"status {status}: not now"):
        link.start(request(server), print)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("min_p must be in [0, 1], got 2", "min_p"),
        ("max_tokens must be at least 1, got 0.", "max_new_tokens"),
        ("stop_token_ids must be a list of integers", "eos_token_ids"),
        ("stop cannot contain an empty string", "stop_strings"),
    ],
)
def test_a_refusal_names_the_setting_that_the_server_names(words: str, key: str) -> None:
    found = refusal("http://h:1", f"ValueError: {words}")
    assert found.key == f"model.sampling.{key}"
    assert f"ValueError: {words.rstrip('.')}. It would be refused again" in str(found)
    assert f"Change {key} there" in found.fix


def test_a_server_that_is_not_there_is_lost(server: StandIn) -> None:
    server.is_dead = True
    link = ServerLink(server.address, TOKEN, 5)
    assert link.info() is None
    with pytest.raises(LostServer):
        link.change(b"", since="", to="")
    with pytest.raises(LostServer):
        link.start(request(server), print)
