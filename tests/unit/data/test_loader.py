"""A loader goes on where it stood, in any order and in the midst of refills."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.data import ByPassRate, Shuffled
from steer_lightning.data.loader import ResumableLoader
from steer_lightning.testing import make_prompts as tiny_prompts


def served(loader: ResumableLoader, count: int) -> list[list[int]]:
    """Ids of the next batches, over the ends of epochs."""
    found: list[list[int]] = []
    while True:
        for batch in loader:
            found.append([prompt.id for prompt in batch])
            if len(found) == count:
                return found


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_the_loader_goes_on_where_it_stood(stop: int) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    whole = served(ResumableLoader(prompts, 3, 4, Shuffled()), 7)  # 3 batches an epoch
    assert len({number for batch in whole[:3] for number in batch}) == 9  # one of 10 is left out
    assert whole[:3] != whole[3:6]
    first = ResumableLoader(prompts, 3, 4, Shuffled())
    before = served(first, stop)
    second = ResumableLoader(prompts, 3, 4, Shuffled())
    second.load_state_dict(first.state_dict())
    assert before + served(second, 7 - stop) == whole


@pytest.mark.parametrize("order", [Shuffled(), ByPassRate()], ids=lambda x: type(x).__name__)
def test_the_next_batch_can_be_seen_without_drawing_it(order) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    loader = ResumableLoader(prompts, 3, 4, order)
    seen: list[list[int]] = []
    for _ in range(3):  # over the ends of epochs
        for batch in loader:
            assert seen[-1:] == [[prompt.id for prompt in batch]] or not seen
            loader.record(batch, torch.rand(3, 4).round())
            state = str(loader.state_dict())
            seen.append([prompt.id for prompt in loader.peek()])
            assert str(loader.state_dict()) == state
    assert len(seen) == 9


@pytest.mark.parametrize("order", [Shuffled(), ByPassRate()], ids=lambda x: type(x).__name__)
def test_further_prompts_are_none_of_the_step_and_do_not_shorten_an_epoch(order) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    loader = ResumableLoader(prompts, 3, 4, order)
    for epoch in range(3):
        batches = 0
        for batch in loader:
            batches += 1
            further = loader.take(2, without=batch)
            again = loader.take(4, without=[*batch, *further])
            ids = [prompt.id for prompt in (*batch, *further, *again)]
            assert len(set(ids)) == 9
            rest = loader.take(5, without=[*batch, *further, *again])
            assert len(rest) == 1, "there are no more"
            assert loader.take(5, without=prompts) == []
        assert batches == 3
        assert loader.state_dict()["epoch"] == epoch + 1


@pytest.mark.parametrize("make", [Shuffled, ByPassRate])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_order_goes_on_where_it_stood_in_the_midst_of_refills(make, stop: int) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])

    def run(loader: ResumableLoader, first: int, last: int) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < last - first:
            for batch in loader:
                further = loader.take((first + len(found)) % 3, without=batch)
                drawn = [*batch, *further]
                found.append([prompt.id for prompt in drawn])
                rewards = torch.tensor([[float(k % 2), float(k % 3 == 0)] for k in found[-1]])
                loader.record(drawn, rewards)
                if len(found) == last - first:
                    break
        return found

    whole = run(ResumableLoader(prompts, 3, 4, make()), 0, 7)
    first = ResumableLoader(prompts, 3, 4, make())
    before = run(first, 0, stop)
    second = ResumableLoader(prompts, 3, 4, make())
    second.load_state_dict(first.state_dict())
    assert before + run(second, stop, 7) == whole


@pytest.mark.parametrize("limit", [2, 0.7])
def test_an_epoch_with_a_limit_has_as_many_batches_each_time(limit: float) -> None:
    prompts = tiny_prompts([str(k) for k in range(10)])
    loader = ResumableLoader(prompts, 3, 4, Shuffled(), limit)  # 2 of 3 batches
    batches = [[prompt.id for prompt in batch] for _ in range(3) for batch in loader]
    assert batches == served(ResumableLoader(prompts, 3, 4, Shuffled()), 6), "none is left out"
    assert loader.state_dict()["epoch"] == 3
    assert len(loader) == 3, "Lightning applies a share to all of them"
