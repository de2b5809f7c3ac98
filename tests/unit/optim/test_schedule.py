"""The learning rate over the steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.optim import Schedule


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
