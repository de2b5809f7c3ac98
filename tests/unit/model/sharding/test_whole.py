"""The whole base in each process."""

from __future__ import annotations

import torch
from torch import nn

from steer_lightning.model.sharding import Sharding


def test_the_model_is_frozen_and_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout())

    def never(*_: object) -> None:
        raise AssertionError("an empty model is for shards")

    sharding = Sharding()
    found = sharding.build(lambda: model, never, never)  # type: ignore[arg-type]
    assert found is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert sharding.num_parameters(model) == 3 * 2 + 2
    assert dict(sharding.full_tensors(model)).keys() == {"0.weight", "0.bias"}


def test_trained_parameters_are_not_of_the_base() -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    model.register_parameter("vector", nn.Parameter(torch.zeros(7)))
    assert Sharding().num_parameters(model) == 8


def test_no_process_waits_for_another() -> None:
    sharding = Sharding()
    assert (sharding.shards, sharding.in_step) == (False, False)
    assert sharding.most_passes(5) == 5
    with sharding.for_rollouts(None), sharding.without_gradients():
        assert torch.is_inference_mode_enabled()
