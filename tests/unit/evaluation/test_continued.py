"""Completions in several parts: how much is sampled, by which random numbers, and where it ends."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.continued import (
    GrowingRow,
    _calls,
    check_steers_all_tokens,
    completions_of_rows,
    continue_rows,
    continue_up_to,
    first_part,
)
from steer_lightning.rollout import DecodeEngine, Sampling, completions_of
from steer_lightning.steering import LoRA, SteeringVectors
from steer_lightning.testing import make_prompts, tiny_policy

GREEDY = Sampling(group_size=2, temperature=0, max_new_tokens=9)


def test_rows_share_a_call_unless_a_text_would_exceed_the_positions() -> None:
    policy = tiny_policy()
    policy.model.config.max_position_embeddings = 20
    prompt = make_prompts(["1234"])[0]  # 5 tokens
    rows = [GrowingRow(number=n, prompt=prompt, ids=[0] * n, finished=True) for n in (2, 7, 4)]
    found = [(room, [row.number for row in some]) for room, some in _calls(rows, 12, policy)]
    assert found == [(10, [2, 4]), (5, [7])], "5 + 7 + 10 exceeds 20"
    policy.model.config.max_position_embeddings = 1000
    assert [room for room, _ in _calls(rows, 12, policy)] == [10]


def test_a_completion_in_two_parts_is_the_greedy_one() -> None:
    """Row 1 has 6 of its 9 tokens and row 0 has 3: both get 6 more, and row 1 keeps 3 of them."""
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    prompts = make_prompts(["ab", "c"])
    whole = engine.generate(prompts, GREEDY, seed=0, step=0)
    rows = first_part(engine, prompts, GREEDY, seed=0)
    assert [row.number for row in rows] == [0, 1, 2, 3]
    assert [row.ids for row in rows] == whole.completion_ids.tolist(), "no row ends early"
    rows = [rows[0], rows[2]]
    for row, kept in zip(rows, (3, 6), strict=True):
        del row.ids[kept:]
    lengths = continue_up_to(9, policy, engine, rows, GREEDY, seed=0, step=1)
    assert lengths == [3 + 3 + 6, 2 + 6 + 6], "prompt, tokens before, and sampled ones"
    assert [row.ids for row in rows] == whole.completion_ids[::2].tolist()
    assert completions_of_rows(policy, rows) == completions_of(whole)[::2]


def test_random_numbers_are_those_of_the_row() -> None:
    policy, engine = tiny_policy(), DecodeEngine()
    engine.setup(policy)
    sampling = Sampling(group_size=4, max_new_tokens=6)

    def grown(numbers: list[int], step: int) -> list[list[int]]:
        prompt = make_prompts(["ab"])[0]
        rows = [GrowingRow(number=n, prompt=prompt, ids=[5], finished=False) for n in numbers]
        continue_rows(engine, rows, sampling, seed=0, step=step)
        return [row.ids for row in rows]

    first, second = grown([3, 8], step=7)
    assert grown([8], step=7) == [second], "whatever is beside it"
    assert len({tuple(x) for x in (first, second, *grown([8], step=6))}) == 3
    continue_rows(engine, [], sampling, seed=0, step=0)


def test_vectors_that_steer_a_part_of_the_tokens_are_refused() -> None:
    whole = SteeringVectors().shaped(2, 4)
    check_steers_all_tokens("budgets", ["w"], {"mine": whole, "lora": LoRA()})
    part = SteeringVectors(tokens="prompt").shaped(2, 4)
    with pytest.raises(ConfigError, match=r"budgets = \['w'\].*vectors mine.*tokens 'prompt'"):
        check_steers_all_tokens("budgets", ["w"], {"mine": part})
