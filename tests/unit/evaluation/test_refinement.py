"""Refinement by gradients: the noise of a draw, the steps, and settings that are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.evaluation.refinement import (
    Refinement,
    changed_tokens,
    check_refinements,
    drawn_logits,
)
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import SteeringVectors

FREE = Sampling()


def test_the_drawn_token_is_the_argmax() -> None:
    """All uniforms 1/2, noise -log(log 2); p = 1/2 each, so that the largest is 0 - log(log 2)."""
    logits, half = torch.tensor([[0.5, 0.5]]).log(), torch.full((1, 2), 0.5, dtype=torch.float64)
    found = drawn_logits(logits, torch.tensor([1]), half, FREE)
    other = -math.log(math.log(2) + 2 * math.log(2))  # exp(-largest) + exp(-(log 1/2 + noise))
    assert found[0].tolist() == pytest.approx([other, -math.log(math.log(2))], abs=1e-6)


def test_moved_logits_draw_from_the_moved_distribution() -> None:
    """The noise that has made a draw is Gumbel noise, so argmax(z + d) ~ softmax(logits + d)."""
    torch.manual_seed(0)
    num = 40_000
    logits, moved = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-0.5, 0.5, 0.7])
    tokens = torch.multinomial(logits.softmax(-1), num, replacement=True)
    uniforms = torch.rand(num, 3, dtype=torch.float64)
    found = drawn_logits(logits.expand(num, 3), tokens, uniforms, FREE)
    assert torch.equal(found.argmax(-1), tokens)
    shares = torch.bincount((found + moved).argmax(-1), minlength=3) / num
    torch.testing.assert_close(shares, (logits + moved).softmax(-1), atol=0.01, rtol=0)


def test_draws_of_other_kinds() -> None:
    logits, tokens = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
    edge = torch.tensor([[0.0, 1 - 2**-53, 0.5]], dtype=torch.float64)
    greedy = drawn_logits(logits, tokens, edge, Sampling(temperature=0))
    assert torch.equal(greedy, logits)
    two = drawn_logits(logits, tokens, edge, Sampling(top_k=2))
    assert two[0].isneginf().tolist() == [False, True, False]
    extreme = drawn_logits(logits, tokens, edge, FREE)
    assert extreme.isfinite().all(), "neither 0 nor a number just below 1 is infinite"
    assert extreme[0, 0] == extreme.amax()
    cool = drawn_logits(logits, tokens, edge.fill_(0.5), Sampling(temperature=0.5))
    largest = (logits * 2).logsumexp(-1) - math.log(math.log(2))
    assert float(cool[0, 0]) == pytest.approx(float(largest), abs=1e-6)


@pytest.mark.parametrize(("steps", "token"), [(0, 0), (2, 0), (3, 1), (50, 1)])
def test_steps_change_a_token(steps: int, token: int) -> None:
    """Adam moves both logits by 0.01 a step, towards each other: a gap of 0.05 lasts two steps."""
    logits, slopes = torch.tensor([[0.0, -0.05, -9.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    refinement = Refinement(steps=steps, learning_rate=0.01)
    found = changed_tokens(logits, slopes, torch.tensor([0]), refinement)
    assert found.tolist() == [token]
    assert logits.tolist() == [[0.0, pytest.approx(-0.05), -9.0]], "the input stays"


def test_tokens_move_by_themselves() -> None:
    """The second has equal slopes and no gradient, the third one is the best, the fourth turns.

    A token that can't be drawn never takes a place, however good its slope is.
    """
    nothing = -torch.inf
    logits = torch.tensor([[0.0, -0.05, nothing], [0.0, -1e-3, -9.0], [0.0, -1e-3, 0.0]])
    slopes = torch.tensor([[0.0, 1.0, nothing], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0]])
    logits = torch.cat([logits, torch.tensor([[0.0, -0.01, nothing]])])
    slopes = torch.cat([slopes, torch.tensor([[0.0, 1.0, 99.0]])])
    tokens = torch.zeros(4, dtype=torch.int64)
    found = changed_tokens(logits, slopes, tokens, Refinement())
    assert found.tolist() == [1, 0, 0, 1]
    for row in range(4):
        part = slice(row, row + 1)
        alone = changed_tokens(logits[part], slopes[part], tokens[part], Refinement())
        assert alone.tolist() == found[part].tolist()


def test_a_lower_temperature_follows_likely_tokens_only() -> None:
    """Token 2, with a probability of e^-40, has no weight in the softmax, but at temperature 40."""
    logits, slopes = torch.tensor([[0.0, -20.0, -40.0]]), torch.tensor([[0.5, 0.0, 9.0]])
    tokens = torch.tensor([0])
    assert changed_tokens(logits, slopes, tokens, Refinement(learning_rate=1)).tolist() == [0]
    warm = Refinement(learning_rate=1, temperature=40)
    assert changed_tokens(logits, slopes, tokens, warm).tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "refinements.steps = -1: must be 0 or more"),
        ({"learning_rate": 0.0}, "refinements.learning_rate = 0.0: must be a number above 0"),
        ({"temperature": float("inf")}, "must be a number above 0"),
        ({"reward_weight": -0.1}, "reward_weight = -0.1: must be 0 or more"),
        ({"max_confidence": 0.0}, "must be above 0, and at most 1"),
        ({"max_confidence": 1.1}, "must be above 0, and at most 1"),
        ({"max_rollouts": 0}, "max_rollouts = 0: must be at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Refinement(**settings)


class Elsewhere(DecodeEngine):
    """An engine whose samples come from other processes."""

    def before_load(self, *_: Any) -> None: ...


def test_settings_that_contradict_each_other() -> None:
    whole, part = (
        SteeringVectors(tokens=tokens).shaped(2, 4)  # type: ignore[arg-type]
        for tokens in ("all", "completion")
    )
    named = {"mine": Refinement()}

    def check(
        refinements: dict[str, Refinement] = named,
        steerings: dict[str, Any] | None = None,
        sampling: Sampling = FREE,
        engine: Any = None,
    ) -> None:
        given = {"v": whole} if steerings is None else steerings
        check_refinements(refinements, given, {"base_sampling": sampling}, engine or DecodeEngine())

    check()
    stops = Sampling(stop_strings=["}"])
    check({}, {"v": part}, stops, Elsewhere())
    with pytest.raises(ConfigError, match=r"refinements = \['mine'\].*vectors v.*'completion'"):
        check(steerings={"v": part})
    with pytest.raises(ConfigError, match=r"refinements = \['mine'\].*engine = Elsewhere"):
        check(engine=Elsewhere())
    with pytest.raises(ConfigError, match=r"refinements = \['mine'\].*base_sampling.stop_strings"):
        check(sampling=stops)
    with pytest.raises(ConfigError, match=r"mine.reward_weight = 1.0: contradicts vectors = null"):
        check({"mine": Refinement(reward_weight=1.0)}, {})
    check(steerings={})
