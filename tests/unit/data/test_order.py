"""Prompts are drawn once a round, in an order from seed and round alone."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.data.order import PromptOrder, Shuffled


def started(num_prompts: int = 10, seed: int = 0) -> Shuffled:
    order = Shuffled()
    order.start(num_prompts, seed)
    return order


def test_each_prompt_comes_once_a_round() -> None:
    order = started()
    assert isinstance(order, PromptOrder)
    for _ in range(3):
        assert sorted(order.take(5) + order.take(5)) == list(range(10))


def test_rounds_and_seeds_have_orders_of_their_own() -> None:
    order = started()
    rounds = [order.take(10) for _ in range(2)]
    assert rounds[0] != rounds[1]
    again = started()
    assert [again.take(10) for _ in range(2)] == rounds
    assert started(seed=1).take(10) != rounds[0]


def test_a_rest_that_is_too_small_is_left_out() -> None:
    order = started()
    first = order.take(4) + order.take(4)
    assert len(set(first)) == 8
    assert order.take(4) == started_in_round(1).take(4)


def started_in_round(number: int) -> Shuffled:
    order = started()
    order.load_state_dict({"round": number, "taken": 0})
    return order


def test_what_is_excluded_is_not_drawn_and_nothing_is_drawn_twice() -> None:
    order = started()
    without = set(order.take(6))
    found = order.take(4, without)
    assert set(found) == set(range(10)) - without
    assert sorted(order.take(9, without={3})) == [n for n in range(10) if n != 3]
    assert len(order.take(5, without=set(range(7)))) == 3, "there are no more"
    assert order.take(1, without=set(range(10))) == []
    assert started().take(99) == started().take(10)


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_that_goes_on_into_the_next_round_repeats_nothing(seed: int) -> None:
    """Three of the round are left and two of them excluded: two come from the next round."""
    order, rest = started(seed=seed), started(seed=seed)
    assert order.take(7) == rest.take(7)
    without = set(rest.take(3)[:2])
    found = order.take(3, without)
    assert len(set(found) - without) == 3


@pytest.mark.parametrize("steps", range(5))
def test_it_goes_on_exactly_from_its_state(steps: int) -> None:
    whole, half = started(), started()
    for _ in range(steps):
        assert whole.take(3) == half.take(3)
    half.record([1], torch.ones(1, 1))
    other = started(seed=0)
    other.load_state_dict(half.state_dict())
    assert [whole.take(3) for _ in range(5)] == [other.take(3) for _ in range(5)]
