"""States at chosen tokens of texts."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import tiny_policy
from steer_lightning.training.states import _batches, read_states

TEXTS = [[1, 5, 9, 7], [1, 8], [1, 30, 31, 32, 33, 34]]
MARKS = [[3, 0], [], [2, 5, 1]]


@pytest.mark.parametrize("max_tokens", [1, 12, 1000])
def test_they_are_those_of_each_text_alone(max_tokens: int) -> None:
    """Layer l puts out what `hidden_states[l + 1]` shows; the vectors do not act."""
    policy = tiny_policy(steering=SteeringVectors(layers=[0, 1]))
    policy.steering.set_vectors(torch.ones(2, 32))  # type: ignore[operator]
    found = read_states(policy, TEXTS, MARKS, max_tokens)
    expected = []
    with torch.no_grad(), policy.at_scale(0.0):
        for text, marks in zip(TEXTS, MARKS, strict=True):
            states = policy.model(torch.tensor([text]), output_hidden_states=True).hidden_states
            expected.append(torch.stack(states[1:3])[:, 0, marks])
    assert found.shape == (2, 5, 32)
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_of_another_site() -> None:
    """A layer of one MLP: its output is what it adds to the stream that enters it."""
    policy = tiny_policy(steering=SteeringVectors(layers=[1], site="mlp_output"))
    seen: list[torch.Tensor] = []
    mlp = policy.layers[1].mlp
    handle = mlp.register_forward_hook(lambda module, args, output: seen.append(output))
    found = read_states(policy, TEXTS[:1], [[3]])
    handle.remove()
    torch.testing.assert_close(found[0, 0], seen[-1][0, 3])


def test_batches_keep_to_the_limit() -> None:
    texts = [[0] * n for n in (3, 9, 4, 4)]
    assert list(_batches([0, 1, 2, 3], texts, 9)) == [[1], [2, 3], [0]]
    assert list(_batches([0, 2, 3], texts, 12)) == [[2, 3, 0]]
    assert list(_batches([], texts, 12)) == []
