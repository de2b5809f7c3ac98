"""Clips of the gradient, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import NormClip, RunningNormClip

NAN = float("nan")


def test_a_fixed_clip() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert NormClip(2.0)([parameter]).item() == pytest.approx(5.0)
    assert parameter.grad.tolist() == pytest.approx([1.2, 1.6])


def test_the_running_clip_by_hand() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    clip = RunningNormClip(decay=0.5, tail=3.0)

    def clipped(gradient: float) -> float:
        parameter.grad = torch.tensor([gradient])
        assert clip([parameter]).item() == pytest.approx(abs(gradient))
        return parameter.grad.item()

    assert clipped(2.0) == pytest.approx(2.0)  # the first defines the bound: 2
    assert clipped(-1.0) == pytest.approx(-1.0)  # bound 0.5 * 2 + 0.5 * 1 = 1.5
    assert clipped(0.0) == 0.0  # says nothing: bound 1.5
    assert clipped(100.0) == pytest.approx(
        3.0
    )  # counted with 3 * 1.5: bound 0.5 * 1.5 + 0.5 * 4.5 = 3
    assert clip.state_dict()["running"].item() == pytest.approx(3.0)  # resumes with the checkpoint


@pytest.mark.parametrize("arguments", [{"max_norm": 0.0}, {"max_norm": -1.0}, {"max_norm": NAN}])
def test_clip_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="max_norm"):
        NormClip(**arguments)
