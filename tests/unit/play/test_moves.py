"""How far tokens moved equals what plain passes of the steered model and of the base say."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.model.head import Head
from steer_lightning.model.policy import Policy
from steer_lightning.play import moves
from steer_lightning.play.moves import (
    Answer,
    choices_at,
    layer_groups,
    layer_moves,
    token_moves,
)
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors
from tests.live import ask, fly, live_flight, tokens_of

IDS = (7, 30, 65, 2, 90)


def logprobs(flight: LiveFlight, answer: Answer, vectors: SteeringVectors | None) -> torch.Tensor:
    """Log-probabilities (T, V) of the tokens of an answer, by a plain policy of its own."""
    steering = vectors or SteeringVectors([0], scale="none")
    plain = Policy(flight.policy.base, steering=steering)
    plain.tokenizer, plain.sharding = flight.policy.tokenizer, flight.policy.sharding
    plain.adopt(flight.policy.model)
    ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
    with torch.no_grad(), plain.at_scale(answer.scale):
        logits = plain.logits(ids, torch.ones_like(ids), len(answer.ids) + 1)[0, :-1]
    plain.attachment.remove()
    return logits.float().log_softmax(-1)


@pytest.fixture(params=["llama", "gemma2", "qwen3"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["all", "completion", "prompt"])
def case(request: pytest.FixtureRequest, architecture: str) -> tuple[LiveFlight, Answer]:
    vectors = SteeringVectors(scale="none", tokens=request.param)
    flight = live_flight(architecture, [vectors])
    answer = Answer(prompt_ids=tokens_of("two words"), ids=IDS, vectors=vectors, scale=1.5)
    return flight, answer


def test_each_token_is_moved_by_the_kl_of_plain_passes(case: tuple[LiveFlight, Answer]) -> None:
    flight, answer = case
    assert isinstance(answer.vectors, SteeringVectors)
    steered, base = logprobs(flight, answer, answer.vectors), logprobs(flight, answer, None)
    found = token_moves(flight, answer)
    expected = (steered.exp() * (steered - base)).sum(-1)
    assert [move.kl for move in found] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    drawn = torch.tensor(IDS)[:, None]
    for name, table in (("base", base), ("steered", steered)):
        told = [getattr(move, name) for move in found]
        assert told == pytest.approx(table.gather(1, drawn)[:, 0].tolist(), rel=1e-3, abs=1e-4)
    assert max(move.kl for move in found) > 0.005, "the vectors do something"


def test_long_answers_have_logits_of_a_few_tokens_at_a_time(
    case: tuple[LiveFlight, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 2, 2 and 1 tokens have the figures of one piece of 5."""
    flight, answer = case
    whole = token_moves(flight, answer)
    sizes: list[int] = []

    def read(head: Head, states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return logits(head, states)

    logits = Head.logits
    monkeypatch.setattr(Head, "logits", read)
    vocabulary = flight.policy.model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(moves, "CHUNK_NUMBERS", 3 * vocabulary - 1)
    found = token_moves(flight, answer)
    for name in ("kl", "base", "steered"):
        expected = [getattr(move, name) for move in whole]
        assert [getattr(move, name) for move in found] == pytest.approx(expected, abs=1e-6)
    assert sizes == [2, 2, 2, 2, 1, 1], "of the base and of the steered model"


@pytest.mark.parametrize("place", [0, 3])
def test_choices_are_the_likeliest_of_both(case: tuple[LiveFlight, Answer], place: int) -> None:
    flight, answer = case
    assert isinstance(answer.vectors, SteeringVectors)
    steered = logprobs(flight, answer, answer.vectors)[place].exp()
    base = logprobs(flight, answer, None)[place].exp()
    found = choices_at(flight, answer, place, 3)
    tops = {*steered.topk(3).indices.tolist(), *base.topk(3).indices.tolist()}
    assert {choice.id for choice in found} == {*tops, IDS[place]}
    for choice in found:
        assert choice.steered == pytest.approx(float(steered[choice.id]), rel=1e-3)
        assert choice.base == pytest.approx(float(base[choice.id]), rel=1e-3)
    assert [x.steered for x in found] == sorted((x.steered for x in found), reverse=True)


@pytest.mark.parametrize("place", [0, 3])
def test_layers_left_out_are_those_of_vectors_without_them(
    case: tuple[LiveFlight, Answer], place: int
) -> None:
    flight, answer = case
    vectors = answer.vectors
    assert isinstance(vectors, SteeringVectors)
    whole = logprobs(flight, answer, vectors)[place]
    for found in layer_moves(flight, answer, place, [0, 1, 2]):
        rows = vectors.vectors.clone()
        rows[found.layer] = 0
        rest = plain_vectors(rows, vectors.layers, vectors.num_layers, tokens=vectors.tokens)
        without = logprobs(flight, answer, rest)[place]
        expected = float((whole.exp() * (whole - without)).sum())
        assert found.kl == pytest.approx(expected, rel=1e-3, abs=1e-5)
        gain = float(whole[IDS[place]] - without[IDS[place]])
        assert found.gain == pytest.approx(gain, rel=1e-3, abs=1e-4)


def test_layers_are_read_in_groups_that_fit() -> None:
    vectors = SteeringVectors(scale="none").shaped(8, 30)
    long = Answer(prompt_ids=(1,) * 500, ids=(1,) * 50, vectors=vectors, scale=1.0)
    groups = layer_groups(long, 12)
    assert [layer for group in groups for layer in group] == list(range(30))
    assert [len(group) for group in groups] == [3] * 10  # with the whole, 4 * 512 tokens
    assert [len(x) for x in layer_groups(long, 5000)] == [1] * 30


def test_a_flight_answers_as_before_afterwards() -> None:
    vectors = SteeringVectors(scale="none")
    flight = live_flight("llama", [vectors])
    before, behind = ask("one", vectors, seed=3), ask("one", vectors, seed=3)
    fly(flight, [before])
    answer = Answer(prompt_ids=tokens_of("two"), ids=IDS, vectors=vectors, scale=2.0)
    flight.pause()
    layer_moves(flight, answer, 2, [0, 1])
    token_moves(flight, answer)
    fly(flight, [behind])
    assert before.answers == behind.answers
