"""Models with states, caps, sinks and keys of other layers decode as plain passes say."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.model.policy import Policy
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.flight import Flight
from steer_lightning.rollout.states import States
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import RECENT, make_prompts
from steer_lightning.types import Rollouts
from tests.odd_places import LAYERS, WIDTH, odd_policy
from tests.unit.rollout.helpers import engine_for, steered

PROMPTS = make_prompts(["a", "two", "a rather longer prompt, for windows of 8", "and", "z9"])
"""Of 2, 4, 40, 4 and 3 tokens."""
STOPS = list(range(60, 80))  # rows end here and there


def gap(policy: Policy, rollouts: Rollouts, temperature: float) -> float:
    """Returns the largest difference from plain passes over one row, without padding or cache."""
    size, worst = len(rollouts.texts) // len(PROMPTS), 0.0
    for n, mask in enumerate(rollouts.completion_mask):
        completion = rollouts.completion_ids[n][mask].tolist()
        row = torch.tensor([[*PROMPTS[n // size].token_ids, *completion]])
        with torch.no_grad():
            logits = policy.logits(row, torch.ones_like(row), len(completion) + 1)[0, :-1]
        expected = (logits / temperature).log_softmax(-1)[range(len(completion)), completion]
        worst = max(worst, float((expected - rollouts.logprobs[n][mask]).abs().max()))
    return worst


@pytest.mark.parametrize("architecture", RECENT)
@pytest.mark.parametrize("budget", [262_144, 150])
def test_log_probabilities_are_those_of_plain_passes(architecture: str, budget: int) -> None:
    """With a small budget rows wait, move, and take each other's places."""
    policy = steered(architecture)
    engine = engine_for(policy, max_tokens_in_flight=budget)
    sampling = Sampling(group_size=3, max_new_tokens=20, eos_token_ids=STOPS)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert len(set(rollouts.completion_mask.sum(1).tolist())) > 4, "rows end at different times"
    assert gap(policy, rollouts, 1.0) < 1e-5


@pytest.mark.parametrize("architecture", RECENT)
def test_rows_that_part_go_on_from_the_same_state(architecture: str) -> None:
    policy = steered(architecture)
    engine = engine_for(policy)
    read = []
    policy.model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    sampling = Sampling(group_size=5, max_new_tokens=12, temperature=0.05, eos_token_ids=STOPS)
    rollouts = engine.generate(PROMPTS, sampling, seed=0, step=0)
    assert sum(read) < 0.9 * int(rollouts.completion_mask.sum(1).sum()), "some begin alike"
    assert len({tuple(ids.tolist()) for ids in rollouts.completion_ids}) > 5, "and part later"
    assert gap(policy, rollouts, 0.05) < 1e-5 / 0.05


def test_layers_with_several_streams_and_inputs_of_their_own() -> None:
    policy = odd_policy("gemma3n", SteeringVectors(site="mlp_output"))
    policy.steering.set_vectors(torch.randn(LAYERS, WIDTH) * 0.1)
    engine = engine_for(policy, max_tokens_in_flight=150)
    sampling = Sampling(group_size=3, max_new_tokens=20, eos_token_ids=STOPS)
    assert gap(policy, engine.generate(PROMPTS, sampling, seed=0, step=0), 1.0) < 1e-5


@pytest.mark.parametrize("architecture", ["gemma4", "qwen3_5"])
def test_vectors_on_some_tokens(architecture: str) -> None:
    """The roles of the tokens reach the layers that read the keys of others, too."""
    for tokens in ("prompt", "completion"):
        policy = steered(architecture, steering=SteeringVectors(tokens=tokens))
        sampling = Sampling(group_size=2, max_new_tokens=6)
        rollouts = engine_for(policy).generate(PROMPTS, sampling, seed=0, step=0)
        assert gap(policy, rollouts, 1.0) < 1e-5
        with policy.at_scale(0.0):
            assert gap(policy, rollouts, 1.0) > 0.01


def test_states_by_hand() -> None:
    flight = Flight(
        [3, 3],
        [0, 0, 0, 1, 1, 1],
        [0, 0],
        max_rows=5,
        max_prompts=2,
        max_columns=5,
        device=torch.device("cpu"),
    )
    states, name = States(flight), ("conv", 0)
    flight.admit([0, 1, 3])  # two rows: completions 0 and 1 share the first
    flight.prefilling = flight.prefill_of([1, 0], 0, False)
    assert states.read(name) is None, "a prompt starts from nothing"
    states.write(name, torch.tensor([[2.0], [1.0]]))
    flight.prefilling = None
    flight.settle()
    rows = states.read(name)
    assert rows is not None
    assert rows.tolist() == [[1], [2]]
    rows += 10  # some layers change their states in place
    flight.split([0], [[1]])
    states.copy_rows(torch.tensor([0]), torch.tensor([2]))
    states.write(name, states.read(name) + torch.tensor([[0.1], [0.2], [0.3]]))
    assert states.rows[name].flatten().tolist() == pytest.approx([11.1, 12.2, 11.3, 0, 0])
    flight.admit([2])  # begins later, from its prompt's end
    flight.prefilling = flight.prefill_of([0], 0, False)
    states.write(name, torch.tensor([[1.0]]))
    assert states.rows[name].flatten().tolist() == pytest.approx([11.1, 12.2, 11.3, 1, 0])
