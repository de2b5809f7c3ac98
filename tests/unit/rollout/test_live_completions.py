"""The table of a live flight: seats, ends, and what is told of each token."""

from __future__ import annotations

import torch

from steer_lightning.rollout import Sampling
from steer_lightning.rollout.completions import draw, row_uniforms
from steer_lightning.rollout.live_completions import (
    Choice,
    LiveCompletions,
    log_probabilities,
    token_facts,
)
from steer_lightning.rollout.live_request import TokenFacts
from steer_lightning.testing import EOS, VOCABULARY, tiny_policy
from tests.live import Asked, ask, tokens_of

POLICY = tiny_policy("llama")
A, B, NEW_LINE = (tokens_of(text)[1] for text in ("a", "b", "\n"))


def seated(*asked: Asked, num_seats: int = 4) -> LiveCompletions:
    completions = LiveCompletions(POLICY, num_seats, 64)
    for one in asked:
        while completions.seat(one.request, 0)[1]:
            pass
    return completions


def likely(*tokens: int) -> torch.Tensor:
    """Logits by which these tokens are drawn."""
    logits = torch.zeros(len(tokens), VOCABULARY)
    logits[range(len(tokens)), list(tokens)] = 100.0
    return logits


def drawn(completions: LiveCompletions, seats: list[int], *tokens: int) -> list[bool]:
    counts = torch.zeros(len(seats), dtype=torch.long)
    found, ended = completions.sample(likely(*tokens), torch.tensor(seats), counts)
    assert found.tolist() == list(tokens)
    return ended.tolist()


def test_a_completion_ends_at_its_end() -> None:
    asked = ask(most=3), ask(most=3, sampling={"eos_token_ids": [B]}), ask(most=1)
    completions = seated(*asked)
    seats = sorted(completions._choices)  # the last seat is given first
    assert seats == [1, 2, 3]
    assert drawn(completions, [3, 2, 1], A, B, A) == [False, True, True]
    assert [one.answers for one in asked[1:]] == [[("b", (B,), "stop")], [("a", (A,), "length")]]
    assert completions.ended == [asked[1].request, asked[2].request]
    assert drawn(completions, [3], EOS) == [True]
    assert asked[0].answers == [("a", (A, EOS), "stop")]
    assert completions.num_free == 4


def test_a_stop_string_is_no_part_of_the_text() -> None:
    asked = ask(most=9, sampling={"stop_strings": ["a\n"]})
    completions = seated(asked)
    for token in (B, A):
        assert drawn(completions, [3], token) == [False]
    assert drawn(completions, [3], NEW_LINE) == [True]
    assert asked.answers == [("b", (B, A, NEW_LINE), "stop")]


def test_a_seat_is_free_again_when_all_completions_have_ended() -> None:
    asked = ask(n=2, most=9)
    completions = seated(asked)
    prompt = completions.prompt_of[3]
    assert completions.prompt_of[2] == prompt
    assert drawn(completions, [3, 2], A, EOS) == [False, True]
    assert completions.num_free == 3
    assert completions.ended == []
    other = ask()
    seat, has_more = completions.seat(other.request, 5)
    assert (seat, has_more) == (2, False)
    assert completions.prompt_of[seat] != prompt, "the first request still has its prompt"
    assert completions.owner_of[completions.prompt_of[seat]] == 5
    assert drawn(completions, [3], EOS) == [True]
    assert completions.ended == [asked.request]


def test_a_request_may_be_seated_bit_by_bit() -> None:
    asked, other = ask(n=3, most=9), ask(most=9)
    completions = LiveCompletions(POLICY, 2, 64)
    assert completions.seat(asked.request, 0) == (1, True)
    assert completions.seat(other.request, 0) == (0, False)
    assert drawn(completions, [1, 0], EOS, A) == [True, False]
    assert completions.ended == [], "two completions wait"
    assert completions.seated == [other.request]
    assert completions.requests == [asked.request, other.request]
    assert completions.seat(asked.request, 0) == (1, True)
    assert completions.prompt_of[1] != completions.prompt_of[0]
    assert drawn(completions, [1, 0], B, EOS) == [False, True]
    assert completions.seat(asked.request, 0) == (0, False)
    assert completions.prompt_of[0] == completions.prompt_of[1], "it has its prompt already"
    assert drawn(completions, [1, 0], EOS, EOS) == [True, True]
    assert completions.ended == [other.request, asked.request]
    assert sorted(piece.choice for piece in asked.pieces if piece.finish) == [0, 1, 2]


def test_all_rows_that_are_not_finite_are_noted() -> None:
    asked, other = ask(n=3, most=9), ask(most=9)
    completions = seated(asked, other)
    logits = likely(A, A, A, A)
    logits[:2] = float("nan")
    counts = torch.zeros(4, dtype=torch.long)
    _, ended = completions.sample(logits, torch.tensor([3, 2, 1, 0]), counts)
    assert ended.tolist() == [True, True, True, False]
    assert completions.broken == [3, 2]
    assert isinstance(asked.error, FloatingPointError)
    completions.sample(likely(A), torch.tensor([0]), counts[:1])
    assert completions.broken == []


def test_who_is_late_or_gone_leaves_at_once() -> None:
    late, gone, other = ask(n=2, deadline=0.0), ask(n=2), ask()
    completions = LiveCompletions(POLICY, 4, 64)
    for one in (late, gone, other):
        completions.seat(one.request, 0)
    gone.request.is_cancelled = True
    assert completions.drop_overdue() == [3, 2]
    assert completions.ended == [late.request, gone.request]
    assert isinstance(late.error, TimeoutError)
    assert gone.events == []
    assert (completions.num_free, completions.requests) == (3, [other.request])
    assert completions.drop_overdue() == []


def test_rows_of_several_kinds_are_drawn_by_their_own_random_numbers() -> None:
    ways = [{"temperature": 0.5}, {"temperature": 2.0}, {"temperature": 0.5}]
    asked = [ask(sampling=way, seed=k, n=1, most=4) for k, way in enumerate(ways)]
    completions = seated(*asked)
    logits = torch.randn(3, VOCABULARY)
    expected = []
    for k, way in enumerate(ways):
        uniforms = row_uniforms(k, 0, [0], 1, 4)[:, 0]
        sampling = Sampling(group_size=1, **way)
        expected.append(int(draw(logits[k : k + 1].clone(), uniforms, sampling)[0]))
    counts = torch.zeros(3, dtype=torch.long)
    found, _ = completions.sample(logits, torch.tensor([3, 2, 1]), counts)
    assert found.tolist() == expected


def test_what_is_told_of_tokens() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    logprobs = log_probabilities(logits)
    first, second = token_facts(logprobs, torch.tensor([2, 1]), [2, 0])
    total = 1 + 2.718281828**2 + 2.718281828
    assert abs(first.logprob - (1 - torch.tensor(total).log().item())) < 1e-6
    assert [token for token, _ in first.alternatives] == [1, 2]
    assert first.alternatives[1][1] == first.logprob
    assert second.alternatives == ()


def test_an_impossible_token_has_a_finite_log_probability() -> None:
    logprobs = log_probabilities(torch.tensor([[0.0, float("-inf")], [float("nan"), 0.0]]))
    assert logprobs[0].tolist() == [0.0, -9999.0]
    assert bool(logprobs[1].isnan().all()), "what is not finite stays so"


def test_pieces_have_the_tokens_of_their_text() -> None:
    asked = ask(most=4)
    choice = Choice(asked.request, 0, torch.full((4,), 0.5), POLICY)
    for token in tokens_of("aé\n")[1:]:
        choice.take(TokenFacts(id=token))
    pieces = [(piece.text, len(piece.tokens), piece.finish) for piece in asked.pieces]
    assert pieces == [("a", 1, None), ("é", 2, None), ("\n", 1, "length")]
