from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.rollout.request import Request
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.served_rows import ServedRows, seed_of_row, settings_of
from steer_lightning.rollout.server_link import LostServer, ServerLink
from steer_lightning.testing import make_prompts

PROMPTS = make_prompts(["a", "bc", "def"])
REQUEST = Request(prompts=PROMPTS, sampling=Sampling(group_size=2), seed=5, step=7)


class Servers:
    """Servers whose messages the test makes.

    Args:
        count: Number of servers.
        refuse: Numbers of those that can't be reached.
    """

    def __init__(self, count: int, refuse: Sequence[int] = ()) -> None:
        self.links = [ServerLink(f"http://{k}", "", 0.1) for k in range(count)]
        self.refuse = [self.links[k] for k in refuse]
        self.asked: list[tuple[ServerLink, Any, Callable[[Any], None]]] = []
        self.abandoned: list[int] = []
        self.reasons: list[str] = []
        self.delay = 0.0
        """Seconds until a server takes a request."""

    def start(self, link: ServerLink, content: Any, tell: Any) -> Callable[[], None]:
        if link in self.refuse:
            raise LostServer("it is off")
        time.sleep(self.delay)
        number = len(self.asked)
        self.asked.append((link, content, tell))
        return lambda: self.abandoned.append(number)

    def lose(self, link: ServerLink, reason: str) -> Sequence[ServerLink]:
        self.links.remove(link)
        self.reasons.append(reason)
        if not self.links:
            raise RuntimeError(reason)
        return self.links

    def rows(self) -> ServedRows:
        return ServedRows(REQUEST, [2], "v", self.links, self.start, self.lose)

    def numbers(self, place: int) -> list[int]:
        """The rows of a request."""
        return [row for row, _, _ in self.asked[place][1]["rows"]]


def test_seeds_differ_by_each_of_their_parts() -> None:
    seeds = [seed_of_row(*parts) for parts in
             ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))]  # fmt: skip
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of_row(1, 2, 3, 4) == seed_of_row(1, 2, 3, 4)


def test_settings_have_the_names_of_vllm() -> None:
    sampling = Sampling(
        temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, max_new_tokens=9, eos_token_ids=[4, 2],
        stop_strings=["x"],
    )  # fmt: skip
    assert settings_of(sampling, [7, 2]) == {
        **{"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "max_tokens": 9},
        **{"stop": ["x"], "stop_token_ids": [2, 4, 7]},
    }
    greedy = settings_of(Sampling(temperature=1e-6, top_p=0.0), [])
    assert greedy["temperature"] == 0
    assert 0 < greedy["top_p"] < 1e-9, "vLLM takes no 0"


def test_the_rows_of_a_prompt_go_to_one_server() -> None:
    servers = Servers(2)
    servers.rows()
    assert [servers.numbers(place) for place in (0, 1)] == [[0, 1, 4, 5], [2, 3]]
    content = servers.asked[0][1]
    assert content["version"] == "v"
    assert content["prompts"] == [list(PROMPTS[0].token_ids), list(PROMPTS[2].token_ids)]
    assert content["rows"][3] == (5, 1, seed_of_row(5, 7, 2, 1))


def test_rows_come_as_they_end_and_can_be_kept() -> None:
    servers = Servers(1)
    rows = servers.rows()
    tell = servers.asked[0][2]
    for row in (3, 1):
        tell({"row": row})
    stream = iter(rows)
    assert [next(stream)["row"], next(stream)["row"]] == [3, 1]
    for row in (0, 2, 4, 5):
        tell({"row": row})
    tell({"end": "it closed the connection"})
    rows.finish()
    assert [message["row"] for message in rows] == [0, 2, 4, 5]
    assert not servers.reasons  # a connection may end once all rows have come


@pytest.mark.parametrize("message", [{"error": "it broke"}, {"end": "it closed"}])
def test_missing_rows_of_a_lost_server_go_to_the_others(message: dict[str, str]) -> None:
    servers = Servers(2)
    rows = servers.rows()
    first, second = (asked[2] for asked in servers.asked)
    second({"row": 2})
    first({"row": 4})
    first(message)
    stream = iter(rows)
    assert [next(stream)["row"] for _ in range(2)] == [2, 4]
    second({"row": 3})
    assert next(stream)["row"] == 3  # behind it, the loss is noticed
    seeds = {row: seed for row, _, seed in servers.asked[0][1]["rows"]}
    for row in (0, 1, 5):
        second({"row": row})  # of a request that did not ask for them
    while len(servers.asked) < 3:
        rows._next()
    link, content, tell = servers.asked[2]
    assert link is servers.links[0]
    assert {row: seed for row, _, seed in content["rows"]} == {k: seeds[k] for k in (0, 1, 5)}
    first({"row": 0})  # too late
    for row in (0, 1, 5):
        tell({"row": row, "late": True})
    assert [message["row"] for message in stream if message["late"]] == [0, 1, 5]
    assert servers.abandoned == [0]


def test_a_refused_request_is_not_passed_on() -> None:
    servers = Servers(2)
    rows = servers.rows()
    servers.asked[1][2]({"refused": "ValueError: top_k must be -1 or more, got -5"})
    with pytest.raises(
        ConfigError, match=r"http://1 refuses the request: ValueError: top_k"
    ) as caught:
        next(iter(rows))
    assert caught.value.key == "model.sampling.top_k"
    assert len(servers.asked) == 2
    assert not servers.reasons


def test_the_time_until_a_server_takes_a_request_is_no_silence() -> None:
    """It may have to wait, with the vectors, for completions that another process asked for."""
    servers = Servers(1)
    servers.delay = 0.05
    start = time.monotonic()
    rows = servers.rows()
    assert rows._shares[0].heard >= start + 0.05


def test_a_server_that_can_not_be_reached_is_lost_at_once() -> None:
    servers = Servers(3, refuse=[0, 2])
    servers.rows()
    asked = sorted(row for place in range(len(servers.asked)) for row in servers.numbers(place))
    assert asked == [0, 1, 2, 3, 4, 5]
    assert servers.reasons == ["it is off", "it is off"]


def test_messages_without_progress_are_silence() -> None:
    servers = Servers(1)
    rows = servers.rows()
    tell = servers.asked[0][2]
    tell({"num_tokens": 3})
    assert rows._next() is None
    heard = rows._shares[0].heard
    tell({"num_tokens": 4})
    rows._next()
    assert rows._shares[0].heard > heard
    time.sleep(0.11)
    tell({"num_tokens": 4})
    assert rows._next() is None, "further messages may be waiting"
    with pytest.raises(RuntimeError, match=r"sampled nothing for 0\.1 seconds"):
        rows._next()


def test_messages_that_wait_for_the_trainer_are_no_silence() -> None:
    """The trainer reads nothing while its update runs, for longer than a server may be silent."""
    servers = Servers(2)
    rows = servers.rows()
    first, second = (asked[2] for asked in servers.asked)
    first({"num_tokens": 0})
    for row in (2, 3):
        second({"row": row})
    for row in (0, 1, 4, 5):
        first({"row": row})
    time.sleep(0.15)
    rows.finish()
    assert sorted(message["row"] for message in rows) == [0, 1, 2, 3, 4, 5]
    assert not servers.reasons


def test_rows_can_be_abandoned() -> None:
    servers = Servers(2)
    servers.rows().abandon()
    assert servers.abandoned == [0, 1]
