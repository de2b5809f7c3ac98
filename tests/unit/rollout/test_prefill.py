"""Passes that read prompts, and a beginning that they have in common only once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steer_lightning.model.plain_pass import BEGINNING_MADE_UP
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling, prefill
from steer_lightning.rollout.prefill import (
    SHORTEST_SHARED,
    Prefill,
    common_length,
    plan_passes,
)
from steer_lightning.rollout.selfcheck import compare
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.tokens import Tokens
from steer_lightning.testing import make_prompts, tiny_policy
from steer_lightning.types import Problem, Prompt

EXAMPLES = list(range(10, 10 + SHORTEST_SHARED))


def pass_of(lengths: list[int], shared: int, reads_shared: bool) -> Prefill:
    """A pass over prompts in slots 2, 0, ... of a flight."""
    slots = torch.tensor([2, 0, 1][: len(lengths)])
    return Prefill(
        slots=slots,
        starting=slots,
        owners=torch.zeros(len(lengths), dtype=torch.long),
        lengths=lengths,
        shared=shared,
        reads_shared=reads_shared,
    )


@pytest.mark.parametrize(
    ("one", "two", "length"), [([1, 2], [1, 2], 2), ([1], [1, 2], 1), ([3], [1], 0), ([], [1], 0)]
)
def test_common_length(one: list[int], two: list[int], length: int) -> None:
    assert common_length(one, two) == length


def test_a_shared_beginning_is_stored_before_the_rest_of_each_prompt_by_hand() -> None:
    """Prompts 1 2 3 4 in slot 2 and 1 2 5 in slot 0; a room has 5 columns, aligned to the right."""
    room = torch.zeros(3, 1, 5, 1)
    first, second = pass_of([4, 3], 2, True), pass_of([4, 3], 2, False)
    prompts = [[1, 2, 3, 4], [1, 2, 5]]
    assert first.rows_of(prompts) == [[1, 2]]
    assert second.rows_of(prompts) == [[3, 4], [5]]
    first.store(room, torch.tensor([1.0, 2]).view(1, 1, 2, 1))
    states = torch.tensor([[3.0, 4], [-1, 5]]).view(2, 1, 2, 1)  # -1 is padding
    seen = second.with_beginning(room, states)
    assert seen.flatten(1).tolist() == [[1, 2, 3, 4], [1, 2, -1, 5]]
    second.store(room, states)
    assert room.flatten(1).tolist() == [[0, 0, 1, 2, 5], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]]


def test_without_a_shared_beginning_all_is_stored_and_seen_as_it_is() -> None:
    room = torch.zeros(3, 1, 4, 1)
    states = torch.tensor([[1.0, 2, 3], [-1, 4, 5]]).view(2, 1, 3, 1)
    both = pass_of([3, 2], 0, False)
    assert both.with_beginning(room, states) is states
    both.store(room, states)
    assert room.flatten(1).tolist() == [[0, -1, 4, 5], [0] * 4, [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, ["11110", "11111", "11101"]),
        (2, ["00110", "00011", "00101"]),
    ],
)
def test_masks_behind_a_shared_beginning_by_hand(window: int | None, expected: list[str]) -> None:
    """Prompts of 5 and 4 tokens, of which 3 are shared.

    The second prompt's row has one token of padding, which only has to see something. With a window
    of 2, a token sees itself and the one before, across the border, too.
    """
    mask = pass_of([5, 4], 3, False).mask(window)
    assert mask is not None
    rows = ["".join(str(int(seen)) for seen in row) for row in mask[:, 0].flatten(0, 1)]
    assert [rows[0], rows[1], rows[3]] == expected
    assert "1" in rows[2]


def test_no_mask_is_needed_where_each_token_sees_all_before_it() -> None:
    assert pass_of([4, 4], 0, False).mask(None) is None
    assert pass_of([4, 4], 0, False).mask(4) is None
    assert pass_of([5, 4], 3, True).mask(None) is None, "the beginning alone has no padding"
    mask = pass_of([5, 4], 3, True).mask(2)
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_which_prompts_are_read_together_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefill, "PREFILL_TOKENS", 2 * SHORTEST_SHARED + 4)
    prompts = {
        3: [*EXAMPLES, 1, 2],  # owner 0
        4: [*EXAMPLES, 1],
        5: [*EXAMPLES, 3, 4, 5],
        6: [*EXAMPLES, 1, 2],  # owner 1, alone
        7: [1, 2],  # owner 2
        8: [1, 3],
    }
    owners = {3: 0, 4: 0, 5: 0, 6: 1, 7: 2, 8: 2}
    plan = list(plan_passes(prompts, owners, may_share=True, may_pad=True))
    count = SHORTEST_SHARED
    assert plan == [
        ([3, 4, 5], count, True),
        ([5], count, False),  # two rows of 3 tokens behind the shared ones are too many
        ([4, 3], count, False),
        ([8, 6], 0, False),  # with its own vectors, 6 shares with nobody
        ([7], 0, False),
    ]
    alone = list(plan_passes(prompts, owners, may_share=False, may_pad=True))
    assert [slots for slots, _, _ in alone] == [[5], [3, 6], [8, 4], [7]]
    assert not any(shared for _, shared, _ in alone)


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    twice = {0: [*EXAMPLES, 1], 1: [*EXAMPLES, 1]}
    plan = list(plan_passes(twice, {0: 0, 1: 0}, may_share=True, may_pad=True))
    assert plan[0] == ([0, 1], SHORTEST_SHARED, True)
    short = {0: EXAMPLES, 1: EXAMPLES}  # without it, too short to be shared
    (only,) = plan_passes(short, {0: 0, 1: 0}, may_share=True, may_pad=True)
    assert only == ([0, 1], 0, False)


def test_rows_of_different_lengths_are_read_one_after_the_other_where_padding_is_not_possible() -> (
    None
):
    prompts, owners = {0: [1, 2], 1: [3], 2: [4, 5]}, {0: 0, 1: 0, 2: 0}
    plan = list(plan_passes(prompts, owners, may_share=False, may_pad=False))
    assert [slots for slots, _, _ in plan] == [[0, 2], [1]]


def test_made_up_texts_have_a_beginning_that_is_long_enough_to_be_shared() -> None:
    assert BEGINNING_MADE_UP >= SHORTEST_SHARED


def with_examples() -> list[Prompt]:
    ids = [[*range(3, 30), 5], [*range(3, 30), 6, 7, 8], [*range(3, 30), 9, 4]]
    problem = Problem(question="", answer="")
    return [
        Prompt(id=k, problem=problem, text="", token_ids=tuple(row)) for k, row in enumerate(ids)
    ]


def tokens_read(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the number of tokens of each pass that reads more than one."""
    found: list[int] = []
    forward = policy.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 1:
            found.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(policy.model, "forward", counted)
    return found


@pytest.mark.parametrize("tokens", ["all", "prompt", "last_prompt", "completion"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_completions_behind_a_shared_beginning_are_those_of_plain_passes(
    name: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's window of 8 tokens begins and ends within the beginning of 27."""
    steering = SteeringVectors(scale="none", tokens=tokens)
    policy = tiny_policy(name, steering=steering)
    with torch.no_grad():
        for weight in policy.steering.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(0))
    engine, sampling = DecodeEngine(), Sampling(group_size=3, max_new_tokens=12)
    engine.setup(policy)
    assert engine.fallback is None
    read = tokens_read(policy, monkeypatch)
    rollouts = engine.generate(with_examples(), sampling, seed=0, step=0)
    assert read[:2] == [27, 9], "the examples once, then three rows of at most three tokens"
    assert compare(policy, rollouts, sampling, range(9)) < 1e-4


def test_short_prompts_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("llama")
    engine = DecodeEngine()
    engine.setup(policy)
    read = tokens_read(policy, monkeypatch)
    prompts = make_prompts(["a", "two words"])
    engine.generate(prompts, Sampling(group_size=2, max_new_tokens=2), seed=0, step=0)
    assert read[0] == 2 * max(len(prompt.token_ids) for prompt in prompts)
