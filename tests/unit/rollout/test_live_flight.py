"""Requests of a live flight are answered as each would be alone, and as plain passes would."""

from __future__ import annotations

import time

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout import live_flight as live_flight_file
from steer_lightning.rollout.cuda_graphs import Pass
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.steering import AdaptiveVectors, LowRankVectors, SteeringVectors
from steer_lightning.testing import make_prompts
from tests.live import Asked, ask, fly, live_flight

TEXTS = ["a", "two words", "a rather longer prompt, for windows of 8", "z9", "two"]
WAYS = [
    {},
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 5, "temperature": 1.3},
    {"temperature": 0.0},
    {"stop_strings": ["e", "12"]},
    {"eos_token_ids": [70, 71, 72, 73]},
]


def mixed() -> list[SteeringVectors]:
    return [
        SteeringVectors(scale="none"),
        SteeringVectors(layers=[1], scale="none", site="mlp_output"),
        LowRankVectors(rank=2, scale="none"),
        AdaptiveVectors(scale="none", tokens="completion"),
    ]


def requests(steerings: list[SteeringVectors]) -> list[Asked]:
    """Many requests that differ in everything."""
    models = [None, *steerings]
    return [
        ask(
            TEXTS[k % 5],
            models[k % len(models)],
            scale=[1.0, 0.5, -1.0][k % 3],
            most=[12, 3, 20, 1][k % 4],
            n=[1, 1, 3][k % 3],
            sampling=WAYS[k % 7],
            seed=k,
            num_alternatives=[None, 2][k % 2],
        )
        for k in range(36)
    ]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_answers_do_not_depend_on_neighbours(architecture: str) -> None:
    steerings = mixed()
    flight = live_flight(architecture, steerings, max_rows=5)
    together, alone = requests(steerings), requests(steerings)
    fly(flight, together)
    for asked in alone:
        fly(flight, [asked])
    assert [x.answers for x in together] == [x.answers for x in alone]
    assert len({str(x.answers) for x in together}) == len(together), "each answer is another one"
    ends = {end for x in together for _, _, end in x.answers}
    assert ends == {"stop", "length"}


def test_a_request_enters_as_soon_as_a_single_row_is_free() -> None:
    """In training, rows are admitted in batches, once one in eight is free."""
    flight = live_flight("llama", max_rows=16)
    long, short = ask("a", most=40, n=15), ask("z9", most=1)
    while not flight.take(long.request):
        pass
    flight.step()
    assert flight.has_room
    flight.take(short.request)
    flight.step()
    assert short.answers[0][2] is not None, "its only token is drawn in the next step"
    assert None in [end for _, _, end in long.answers]
    flight.drop()


def test_answers_are_those_of_the_engine() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering])
    prompts, sampling = make_prompts(TEXTS), Sampling(group_size=3, max_new_tokens=12)
    asked = [ask(text, steering, n=3, scale=0.5, seed=7, number=k) for k, text in enumerate(TEXTS)]
    fly(flight, asked)
    flight.pause()
    policy, engine = Policy("tiny", steering=steering), DecodeEngine()
    policy.tokenizer = flight.policy.tokenizer
    policy.adopt(flight.policy.model)
    policy.attachment.scale = 0.5
    engine.setup(policy)
    expected = engine.generate(prompts, sampling, seed=7, step=0)
    found = [answer for one in asked for answer in one.answers]
    assert [text for text, _, _ in found] == list(expected.texts)
    ids = [
        tuple(row[mask].tolist())
        for row, mask in zip(expected.completion_ids, expected.completion_mask, strict=True)
    ]
    assert [tokens for _, tokens, _ in found] == ids
    policy.attachment.remove()


def test_log_probabilities_are_those_of_a_plain_pass() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering])
    asked = ask(most=5, vectors=steering, sampling={"temperature": 0.5}, num_alternatives=3)
    fly(flight, [asked])
    flight.pause()
    policy = flight.policy
    tokens = asked.answers[0][1]
    ids = torch.tensor([[*asked.request.token_ids, *tokens]])
    with torch.inference_mode(), steering.attach(policy.model):
        logprobs = policy.model(ids).logits[0, -len(tokens) - 1 : -1].log_softmax(-1)
    told = [token for piece in asked.pieces for token in piece.tokens]
    expected = logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    torch.testing.assert_close(
        torch.tensor([token.logprob for token in told]), expected, rtol=0, atol=2e-5
    )
    top = logprobs.topk(3)
    assert [[n for n, _ in x.alternatives] for x in told] == top.indices.tolist()
    found = torch.tensor([[p for _, p in x.alternatives] for x in told])
    torch.testing.assert_close(found, top.values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "granite4"])
def test_a_prompt_is_scored_in_the_middle_of_other_answers(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its logits are capped, or multiplied; and never are all logits in memory."""
    monkeypatch.setattr(live_flight_file, "LOGITS_TOKENS", 3)
    first, second = SteeringVectors(scale="none"), SteeringVectors(scale="none")
    flight = live_flight(architecture, [first, second])
    if architecture == "granite4":
        flight.policy.model.config.logits_scaling, flight.policy.logit_factor = 0.25, 4.0
    lengths = []
    flight.policy.model.get_output_embeddings().register_forward_hook(
        lambda layer, inputs, output: lengths.append(output.shape[1])
    )
    running, alone = ask(vectors=second, seed=1), ask(vectors=second, seed=1)
    flight.take(running.request)
    flight.step()
    scored = ask("a prompt", first, num_alternatives=2)
    scored.request.sampling = None
    flight.score(scored.request)
    assert set(lengths) == {1}
    fly(flight, [])
    fly(flight, [alone])
    assert running.answers == alone.answers
    flight.pause()
    ids = torch.tensor([scored.request.token_ids])
    with torch.inference_mode(), first.attach(flight.policy.model):
        logprobs = flight.policy.model(ids).logits[0, :-1].log_softmax(-1)
    told = scored.scores.tokens
    assert [token.id for token in told] == ids[0].tolist()
    assert told[0].logprob is None
    expected = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    found = torch.tensor([token.logprob for token in told[1:]])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert [x.alternatives[0][0] for x in told[1:]] == logprobs.argmax(-1).tolist()


LONG = "the longest prompt, so that others are padded to its width"


def check_later_answers(flight: LiveFlight, asked: Asked) -> None:
    """A neighbour with a longer prompt, and those who get the slots afterwards, notice nothing."""
    neighbour, again = (ask(LONG, most=20, seed=3) for _ in range(2))
    later, alone = ([ask(text, seed=9) for text in ("a", "z9", "two")] for _ in range(2))
    for one in (neighbour, asked):  # so that those behind them get the slots of the second one
        while not flight.take(one.request):
            pass
        flight.drop_overdue()
        flight.step()
    fly(flight, later)
    fly(live_flight("llama", max_length=100), [again, *alone])
    assert neighbour.answers == again.answers
    assert [x.answers for x in later] == [x.answers for x in alone]


def test_infinite_vectors_fail_alone() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering], max_length=100)
    steering.set_vectors(torch.full((3, 32), 3e38))
    asked = ask("a longer prompt than others", steering, scale=2.0, n=2)
    check_later_answers(flight, asked)
    assert isinstance(asked.error, FloatingPointError)
    assert not asked.pieces
    scored = ask("a prompt", steering, scale=2.0)
    with pytest.raises(FloatingPointError, match="too large for the base"):
        flight.score(scored.request)


def test_a_cancelled_request_leaves_its_rows() -> None:
    flight = live_flight("llama", max_length=100)
    asked = ask(n=2, most=50)

    def leave(event: object) -> None:
        asked.events.append(event)  # type: ignore[arg-type]
        asked.request.is_cancelled = len(asked.events) == 4

    asked.request.on_event = leave
    check_later_answers(flight, asked)
    assert len(asked.events) <= 5
    assert asked.error is None


def test_a_late_answer_ends_with_an_error() -> None:
    flight = live_flight("llama", max_length=100)
    asked = ask(most=50, deadline=time.monotonic() - 1)
    check_later_answers(flight, asked)
    assert isinstance(asked.error, TimeoutError)
    assert not asked.pieces


@pytest.mark.parametrize("way", [{"deadline": 0.0}, {}], ids=["late", "cancelled"])
def test_whoever_does_not_wait_any_more_makes_room_before_others_enter(
    way: dict[str, float],
) -> None:
    flight = live_flight("llama", max_rows=2)
    asked, neighbour = ask(n=3, most=40, **way), ask(most=20, seed=2)
    flight.take(neighbour.request)
    flight.take(asked.request)
    flight.step()
    asked.request.is_cancelled = not way
    told = len(asked.pieces)
    assert flight.drop_overdue() == [asked.request]
    assert flight.has_room
    assert len(asked.pieces) == told
    assert [type(asked.error)] == ([TimeoutError] if way else [type(None)])
    others = [ask(seed=k, most=9) for k in range(3)]
    fly(flight, others)
    again = [ask(most=20, seed=2), *(ask(seed=k, most=9) for k in range(3))]
    fly(live_flight("llama", max_rows=2), again)
    assert [x.answers for x in (neighbour, *others)] == [x.answers for x in again]


def test_a_completion_that_is_dropped_before_its_first_token_leaves_nothing() -> None:
    flight = live_flight("llama", max_rows=2)
    asked = ask()
    flight.take(asked.request)
    asked.request.is_cancelled = True
    assert flight.drop_overdue() == [asked.request]
    assert flight.is_empty
    assert flight.step() == []
    assert not asked.events


def test_an_arm_that_no_row_needs_makes_room_for_another() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering], max_rows=2)
    asked = [ask(vectors=steering, scale=0.1 * k, most=4, num_alternatives=0) for k in range(9)]
    fly(flight, asked)
    assert len(flight._arms) <= 4
    logprobs = [one.pieces[0].tokens[0].logprob for one in asked]
    assert len(set(logprobs)) == 9


def test_captured_passes_read_the_vectors_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs hold addresses, so those of before a pause, or of other vectors, are of no use."""
    captures: list[Pass] = []

    def capture(run: Pass) -> Pass:
        captures.append(run)
        return run

    monkeypatch.setattr("steer_lightning.rollout.live_flight.CudaGraphs", lambda: capture)
    first, second = SteeringVectors(scale="none"), SteeringVectors(scale="none")
    flight = live_flight("llama", [first, second])
    flight._can_capture = True
    expected = [ask(vectors=vectors, most=8) for vectors in (first, second)]
    asked = [ask(vectors=vectors, most=8) for vectors in (first, second)]
    used = []
    for one in asked:
        fly(flight, [one])
        used.append(flight._decoder.captured)
    flight.score(ask(vectors=first).request)
    fly(flight, [ask(vectors=first)])
    used.append(flight._decoder.captured)
    assert captures
    assert len(set(map(id, used))) == 3
    flight._can_capture, flight._decoder.captured = False, None
    fly(flight, expected)
    assert [x.answers for x in asked] == [x.answers for x in expected]


def test_the_memory_of_a_long_answer_is_given_back() -> None:
    flight = live_flight("llama", max_length=200)
    short, long = ask(most=3), ask(most=150)
    fly(flight, [short])
    kept = flight._cache
    fly(flight, [long])
    assert flight._cache is not kept
    again = ask(most=150)
    fly(flight, [again])
    assert again.answers == long.answers


def test_long_tails_are_kept_with_the_graphs_that_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures: list[Pass] = []

    def capture(run: Pass) -> Pass:
        captures.append(run)
        return run

    monkeypatch.setattr("steer_lightning.rollout.live_flight.CudaGraphs", lambda: capture)
    flight = live_flight("llama", max_length=200)
    flight._can_capture = True
    long, again = ask(most=150), ask(most=150)
    fly(flight, [long])
    kept, count = flight._cache, len(captures)
    fly(flight, [again])
    assert flight._cache is kept
    assert count == len(captures) - 1 > 0, "the first columns, whose tails have grown since"
    assert again.answers == long.answers


def test_without_the_flight_the_model_is_the_base() -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering])
    model, ids = flight.policy.model, torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    flight.take(ask(vectors=steering).request)
    flight.step()
    assert flight.policy.model.config._attn_implementation != "sdpa"
    flight.pause()
    assert torch.equal(model(ids).logits, before)
    left = flight.drop()
    assert len(left) == 1
    assert flight.is_empty
