"""Which models can skip layers."""

from __future__ import annotations

import pytest

from steer_lightning.testing import ARCHITECTURES
from steer_lightning.training.selfcheck import can_skip_layers
from tests.unit.training.helpers import policy_with_vectors


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"falcon"}))
def test_every_architecture_can_skip_layers(architecture: str) -> None:
    assert can_skip_layers(policy_with_vectors(architecture))


@pytest.mark.parametrize("default", [(), (0,)], ids=["raises", "differs"])
def test_layers_that_hand_on_more_than_their_stream_are_noticed(
    monkeypatch: pytest.MonkeyPatch, default: tuple[int, ...]
) -> None:
    policy = policy_with_vectors()
    below, above = policy.layers[0].mlp, policy.layers[2].mlp
    first, second, beside = below.forward, above.forward, {}
    monkeypatch.setattr(below, "forward", lambda x: beside.setdefault("x", first(x)))
    monkeypatch.setattr(above, "forward", lambda x: second(x) + beside.pop("x", *default))
    assert not can_skip_layers(policy)
