"""How many keys and values are in flight, and tails that outgrow their room."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.rollout import DecodeEngine, GenerateEngine, Sampling
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.kv_cache import FlightCache, plan_flight
from steer_lightning.rollout.request import Request
from steer_lightning.testing import make_prompts
from tests.unit.rollout.helpers import PROMPTS, engine_for, steered


def test_tails_longer_than_their_first_room_and_windows() -> None:
    policy = steered("gemma3")  # sliding windows of 8
    sampling = Sampling(group_size=2, max_new_tokens=150)
    reference = GenerateEngine()
    reference.setup(policy)
    expected = reference.generate(PROMPTS, sampling, seed=0, step=0)
    found = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
    assert expected.completion_ids.shape[1] == 150
    assert torch.equal(found.completion_ids, expected.completion_ids)


ROOM = torch.arange(2 * 3 * 8.0).reshape(3, 1, 8, 2)  # three prompts of up to 8 tokens


def cache_with(architecture: str, lengths: list[int]) -> FlightCache:
    """A cache with a completion of each prompt in flight, two columns long."""
    flight = Flight(
        lengths,
        range(3),
        [0] * 3,
        max_rows=3,
        max_prompts=3,
        max_columns=20,
        device=torch.device("cpu"),
    )
    cache = FlightCache(steered(architecture).model, flight)
    flight.admit(range(3))
    flight.settle()
    flight.advance()
    for layer in cache.layers:
        layer.lazy_initialization(ROOM[:, :, :1], ROOM[:, :, :1])
        for room in (*layer.prefix, *layer.tail):
            room.fill_(7.0)
    return cache


def test_only_the_columns_of_a_prompt_move() -> None:
    cache = cache_with("llama", [8, 2, 3])
    flight = cache._flight
    for layer in cache.layers:
        layer.prefix = [ROOM.clone(), ROOM.clone()]
    flight.release([0])
    source, target = flight.release_prompts()
    assert (source, target) == ([2], [0])
    cache.move_prompts(torch.tensor(source), torch.tensor(target))
    for layer in cache.layers:
        for room in layer.prefix:
            assert torch.equal(room[0, :, -3:], ROOM[2, :, -3:])
            assert torch.equal(room[0, :, :-3], ROOM[0, :, :-3]), "of the longer prompt before"
            assert torch.equal(room[1:], ROOM[1:])


def test_only_what_a_completion_has_written_is_cleared() -> None:
    cache = cache_with("llama", [5, 2, 3])
    cache.clear([1])
    for layer in cache.layers:
        for room in layer.tail:
            assert room[1, :, :2].eq(0).all()
            assert room[1, :, 2:].eq(7).all()
            assert room[[0, 2]].eq(7).all()
        for room in layer.prefix:  # as wide as the longest prompt, to which others are padded
            assert room[1].eq(0).all()
            assert room[[0, 2]].eq(7).all()


def test_plans_by_hand() -> None:
    prompts = make_prompts(["x" * 9] * 4)  # 10 tokens each, with BOS
    sampling = Sampling(group_size=4, max_new_tokens=20)
    asked = [Request(prompts=prompts, sampling=sampling, seed=0, step=0)]
    whole = plan_flight(asked, 360)  # 16 * 20 + 4 * 10
    assert (whole.max_rows, whole.max_prompts, whole.tokens) == (16, 4, 360)
    part = plan_flight(asked, 200)
    assert part.tokens <= 200
    assert part.max_rows == 7  # (200 - 2 * 10) / (20 + 1.5 * 10 / 4)
    one = plan_flight(asked, 30)
    assert (one.max_rows, one.max_prompts) == (1, 1)
    with pytest.raises(ConfigError, match=r"max_tokens_in_flight = 29.*10 tokens.*20 tokens.*30"):
        plan_flight(asked, 29)
    with pytest.raises(ConfigError, match="at least 1"):
        DecodeEngine(0)
