"""A live flight that answers wrongly is noticed, whichever model it answers with."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.inference.flight_check import LEAST_LENGTH, why_not
from steer_lightning.rollout.live_flight import LiveFlight
from steer_lightning.steering import AdaptiveVectors, SteeringVectors
from steer_lightning.steering.row_vectors import RowVectors
from tests.live import ask, fly, live_flight


@pytest.mark.parametrize(("architecture", "max_rows"), [("llama", 1), ("gemma3", 8)])
def test_right_answers_are_found_right(architecture: str, max_rows: int) -> None:
    steerings = [SteeringVectors(scale="none"), AdaptiveVectors(scale="none", tokens="completion")]
    flight = live_flight(architecture, steerings, max_rows=max_rows)
    before, after = ask(), ask()
    fly(flight, [before])
    for steering in steerings:
        assert why_not(flight, steering) is None
    fly(flight, [after])
    assert after.answers == before.answers
    flight.pause()
    ids = torch.tensor([[5, 6, 7]])
    logits = flight.policy.model(ids).logits
    flight.policy.attachment.remove()
    assert torch.equal(flight.policy.model(ids).logits, logits), "the check leaves no hooks"


def test_the_least_length_suffices_for_the_check() -> None:
    assert (
        why_not(live_flight("llama", max_length=LEAST_LENGTH), SteeringVectors([0], scale="none"))
        is None
    )


@pytest.mark.parametrize("max_rows", [4, 8])
def test_rows_with_the_vectors_of_others_are_noticed(
    max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = SteeringVectors(scale="none")
    flight = live_flight("llama", [steering], max_rows=max_rows)
    plain = RowVectors._by_row

    def mixed_up(self: RowVectors, number: int, stream: torch.Tensor) -> torch.Tensor:
        assert self._owners is not None
        self._owners = self._owners.flip(0)
        return plain(self, number, stream)

    monkeypatch.setattr(RowVectors, "_by_row", mixed_up)
    reason = why_not(flight, steering)
    assert reason is not None
    assert "log-probabilities differ" in reason


def test_a_base_that_can_not_decode_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: LiveFlight) -> None:
        raise ValueError("no such interface")

    flight = live_flight("llama")
    monkeypatch.setattr(LiveFlight, "step", step)
    assert why_not(flight, SteeringVectors([0], scale="none")) == "ValueError: no such interface"
    assert flight.is_empty
