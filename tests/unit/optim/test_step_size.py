"""Clips of the gradient and schedules of the rate, with numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import NormClip, RunningNormClip, Schedule

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


def test_schedules() -> None:
    def rates(schedule: Schedule, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = schedule.build(optimizer, steps)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    assert rates(Schedule(warmup=0.2), 10) == pytest.approx([0.5] + [1.0] * 9)
    assert rates(Schedule(kind="cosine", warmup=0.0), 4) == pytest.approx(
        [1.0, 0.8535534, 0.5, 0.1464466]
    )
    for warmup in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="warmup"):
            Schedule(warmup=warmup)
