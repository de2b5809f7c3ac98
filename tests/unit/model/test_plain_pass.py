"""The plain pass that faster ways are compared with, and the figure of the comparison."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer_lightning.model import plain_pass, precision
from steer_lightning.model.plain_pass import (
    BEGINNING_MADE_UP,
    MOST_COMPARED,
    gap_of,
    lengths_that_matter,
    logprobs_of,
    made_up_tokens,
    plain_logits,
    tolerance,
)
from steer_lightning.model.precision import checked_in_float32
from steer_lightning.testing import tiny_model, tiny_policy
from tests.odd_models import longrope, phimoe

NAN, INFINITY = math.nan, math.inf
FIRST = [5, 14, 9, 20, 23]  # of each model's made-up texts; the last two begin alike


def policy_in(dtype: torch.dtype) -> Any:
    policy = tiny_policy()
    policy.model.to(dtype)
    return policy


# ---- gap_of

FOUND = torch.tensor([-9.0, -1.0, -2.0, -3.0, -4.0, -5.0])
EXPECTED = torch.tensor([-1.0, -2.5, -3.0, -4.25, -5.0])  # of the last five


@pytest.mark.parametrize(
    ("dtype", "share", "expected"),
    [
        (torch.float32, 1.0, 0.5),  # the largest
        (torch.float32, 0.75, 0.25),  # of the four smallest: 0, 0, 0, 0.25
        (torch.float32, 0.5, 0.0),  # of the three smallest
        (torch.float32, 0.0, 0.0),  # one always counts
        (torch.bfloat16, 1.0, 0.75 / 5),  # the mean
        (torch.bfloat16, 0.75, 0.25 / 4),
        (torch.float16, 1.0, 0.75 / 5),
    ],
)
def test_the_gap_by_hand(dtype: torch.dtype, share: float, expected: float) -> None:
    assert gap_of(policy_in(dtype), FOUND, EXPECTED, share) == pytest.approx(expected)


def test_a_short_completion_counts_as_one_of_four_tokens() -> None:
    """In 16 bits a single token may be far off: 0.4 nats of one token are a mean of 0.1."""
    found, expected = torch.tensor([-1.4]), torch.tensor([-1.0])
    assert gap_of(policy_in(torch.bfloat16), found, expected) == pytest.approx(0.1)
    assert gap_of(policy_in(torch.float32), found, expected) == pytest.approx(0.4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("odd", [NAN, INFINITY, -INFINITY])
def test_a_number_that_is_none_is_infinitely_far(dtype: torch.dtype, odd: float) -> None:
    policy, good = policy_in(dtype), torch.tensor([-1.0, -2.0, -3.0])
    bad = torch.tensor([-1.0, odd, -3.0])
    assert gap_of(policy, bad, good) == INFINITY
    assert gap_of(policy, good, bad) == INFINITY
    assert gap_of(policy, bad, bad) == INFINITY, "two of them agree in nothing"
    assert gap_of(policy, bad, good, share=0.5) == 0.0, "unless it is of the share left out"


def test_the_tolerance_is_that_of_the_bases_dtype_and_looser_where_float32_was_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = (torch.float32, torch.float16, torch.bfloat16)
    assert [tolerance(policy_in(x)) for x in every] == pytest.approx([2e-4, 0.16, 0.48])
    monkeypatch.setattr(precision, "MOST_ELSEWHERE", 0)  # too large to be checked in float32
    assert [tolerance(policy_in(x)) for x in every] == [2e-4, 0.04, 0.12]
    assert tolerance(policy_in(torch.float64)) == 0.12


def test_the_tolerance_in_float32_of_a_base_in_16_bits_allows_for_what_it_has_rounded() -> None:
    policy, seen = policy_in(torch.bfloat16), []
    checked_in_float32(policy, lambda: seen.append(tolerance(policy)))
    assert seen == pytest.approx([5e-3, 0.48])


# ---- plain_logits


def test_the_logits_are_the_models_own_for_each_token_of_the_completion() -> None:
    policy, prompt, completion = tiny_policy("qwen2"), [1, 7, 9], [4, 5, 6, 2]
    policy.steering.set_vectors(torch.randn(3, 32))
    with torch.no_grad():
        found = plain_logits(policy, prompt, completion)
        every = policy.model(torch.tensor([prompt + completion])).logits[0]
    torch.testing.assert_close(found, every[2:6])
    logprobs = every[2:6].log_softmax(-1)
    expected = torch.stack([logprobs[n, token] for n, token in enumerate(completion)])
    torch.testing.assert_close(logprobs_of(found, completion), expected)


def test_of_a_long_completion_the_last_tokens_are_compared() -> None:
    policy, prompt = tiny_policy("qwen2"), [1, 7, 9]
    completion = torch.randint(259, (MOST_COMPARED + 9,)).tolist()
    with torch.no_grad():
        found = plain_logits(policy, prompt, completion)
        every = policy.model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    assert found.shape == (MOST_COMPARED, 259)
    last = torch.arange(3 + 9, 3 + 9 + MOST_COMPARED)
    chosen = torch.tensor(completion[-MOST_COMPARED:])
    torch.testing.assert_close(logprobs_of(found, completion), every[last - 1, chosen])


def test_logprobs_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    found = logprobs_of(logits, [0, 0, 1, 0])  # of the last two tokens: 1 and 0
    torch.testing.assert_close(found, torch.tensor([0.75, 0.8]).log())


# ---- lengths


def config_of(**named: object) -> Any:
    text = SimpleNamespace(vocab_size=50, **named)
    return SimpleNamespace(get_text_config=lambda: text)


def test_lengths_that_matter_are_whole_numbers_above_1_under_such_names() -> None:
    found = config_of(
        **{"sliding_window": 32, "attention_chunk_size": 8, "block_size": 64, "index_topk": 16},
        **{"window": 32, "use_window": True, "other_window": None, "window_share": 0.5},
        **{"chunk_of_1": 1, "hidden_size": 128},
    )
    assert lengths_that_matter(found) == [8, 16, 32, 64]
    assert lengths_that_matter(phimoe(window=30)) == [30]
    assert lengths_that_matter(config_of(hidden_size=9)) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (config_of(), FIRST),
        (config_of(window=40), [*FIRST, 38, 45]),  # a completion crosses it; or it is beyond
        (config_of(window=2), [*FIRST, 1, 7]),  # never empty
        (config_of(window=256), [*FIRST, 254, 261]),
        (config_of(window=257), FIRST),  # too long to be made up
        (config_of(window=40, chunk=20), [*FIRST, 18, 25, 38, 45]),
    ],
)
def test_made_up_texts_lie_on_both_sides_of_a_window(config: Any, expected: list[int]) -> None:
    texts = made_up_tokens(config)
    assert [len(text) for text in texts] == expected
    assert all(0 <= token < 50 for text in texts for token in text)
    assert made_up_tokens(config) == texts, "the same each time"


def test_longer_texts_are_made_up_when_they_are_first_met() -> None:
    config = config_of(window=40, chunk=300)
    lengths = {
        (0, 256): [*FIRST, 38, 45],
        (256, 300): [*FIRST, 298, 305],
        (40, 299): FIRST,
    }
    for (above, up_to), expected in lengths.items():
        assert [len(text) for text in made_up_tokens(config, above, up_to)] == expected


def test_made_up_texts_stay_below_a_switch_of_rotary_frequencies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is at 32 tokens, and 8 more may follow: texts of up to 24 tokens remain."""
    config = longrope()
    monkeypatch.setattr(plain_pass, "lengths_that_matter", lambda _: [20, 26, 40])
    assert [len(text) for text in made_up_tokens(config)] == [5, 14, 9, 20, 23, 18, 24]
    monkeypatch.setattr(plain_pass, "switch_length", lambda _: ("longrope", 22))
    assert [len(text) for text in made_up_tokens(config)] == [5, 14, 9]
    monkeypatch.setattr(plain_pass, "switch_length", lambda _: ("longrope", 12))
    assert [len(text) for text in made_up_tokens(config)] == [1]


def test_long_made_up_texts_begin_alike_and_go_on_differently() -> None:
    *short, one, two = made_up_tokens(config_of())
    assert one[:BEGINNING_MADE_UP] == two[:BEGINNING_MADE_UP]
    assert one[BEGINNING_MADE_UP] != two[BEGINNING_MADE_UP]
    assert len({text[:3] for text in [*short, one]}) == 4


def test_made_up_texts_of_a_real_model_fit_it() -> None:
    config = tiny_model("gemma3").config
    assert lengths_that_matter(config)
    assert max(map(max, made_up_tokens(config))) < config.vocab_size
