"""Log-probabilities of engine and update that are equal to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from steer_lightning.losses import PolicyGradient
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.testing import check_engine, make_prompts
from steer_lightning.training.batch import Batch
from steer_lightning.training.gradient import BatchGradient
from steer_lightning.types import Rollouts
from tests.unit.rollout.helpers import OPEN_DOORS, steered

PROMPTS = make_prompts(["a", "two words", "a rather longer prompt", "z9"])
SAMPLING = Sampling(group_size=4, max_new_tokens=12, temperature=0.9)

MAX_TOKENS = 60
"""So few that the rows of a longer prompt are read in two blocks."""


def exact(policy: Any) -> ExactEngine:
    engine = ExactEngine(DecodeEngine(), MAX_TOKENS)
    engine.setup(policy)
    return engine


def mismatch(policy: Any, rollouts: Rollouts) -> float:
    """The largest difference that the update finds, with gradients on."""
    gradient = BatchGradient(
        policy=policy, loss=PolicyGradient(), temperature=0.9, max_tokens=MAX_TOKENS, exact=True
    )
    advantages = torch.linspace(-1, 1, len(rollouts.texts)).view(-1, rollouts.group_size)
    return gradient.accumulate(gradient.plan(Batch.alone(rollouts, advantages))).mismatch["max"]


@pytest.mark.parametrize("architecture", OPEN_DOORS)
def test_the_update_finds_the_very_bits_of_the_engine(architecture: str) -> None:
    policy = steered(architecture)
    rollouts = exact(policy).generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert mismatch(policy, rollouts) == 0.0
    fast = DecodeEngine()
    fast.setup(policy)
    drafted = fast.generate(PROMPTS, SAMPLING, seed=0, step=0)
    assert torch.equal(rollouts.completion_ids, drafted.completion_ids)
    assert 0 < mismatch(policy, drafted) < 1e-4, "as it is without the mode"


def test_it_holds_in_bfloat16_and_is_an_engine() -> None:
    policy = steered("llama")
    check_engine(ExactEngine(DecodeEngine()), policy)
    policy.model.to(torch.bfloat16)
    assert mismatch(policy, exact(policy).generate(PROMPTS, SAMPLING, seed=0, step=0)) == 0.0


def test_a_draft_that_differs_is_drawn_again_from_the_other_token_on() -> None:
    policy = steered("llama")
    right = exact(policy).generate(PROMPTS, SAMPLING, seed=0, step=0)

    class Wrong(DecodeEngine):
        def generate(self, *args: Any, **kwargs: Any) -> Rollouts:
            found = super().generate(*args, **kwargs)
            ids = found.completion_ids.clone()
            ids[1, 5], ids[2, 0] = 7, 8
            return replace(found, completion_ids=ids)

    engine = ExactEngine(Wrong(), MAX_TOKENS)
    engine.setup(policy)
    told: dict[int, str] = {}
    found = engine.generate(
        PROMPTS,
        SAMPLING,
        seed=0,
        step=0,
        on_completion=lambda row, completion: told.__setitem__(row, completion.text),
    )
    for name in ("completion_ids", "completion_mask", "logprobs", "finished"):
        assert torch.equal(getattr(found, name), getattr(right, name)), name
    assert found.texts == right.texts
    assert tuple(told[row] for row in range(16)) == right.texts
    assert mismatch(policy, found) == 0.0


def test_greedy_completions_are_those_of_the_draft() -> None:
    policy = steered("llama")
    greedy = Sampling(group_size=1, temperature=0, max_new_tokens=6)
    fast = DecodeEngine()
    fast.setup(policy)
    one = exact(policy).generate(PROMPTS, greedy, seed=0, step=0)
    two = fast.generate(PROMPTS, greedy, seed=0, step=0)
    assert torch.equal(one.completion_ids, two.completion_ids)


def test_a_model_that_is_another_one_each_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = steered("llama")
    engine = exact(policy)
    drawn = iter(range(1, 10_000))
    read = policy.logits
    monkeypatch.setattr(policy, "logits", lambda *args: read(*args).roll(next(drawn), dims=-1))
    with pytest.raises(RuntimeError, match="not deterministic"):
        engine.generate(PROMPTS[:1], SAMPLING, seed=0, step=0)
