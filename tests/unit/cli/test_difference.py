"""The device of the command `difference`."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.cli.difference import device_of, run


@pytest.mark.parametrize(
    ("trainer", "has_gpu", "expected"),
    [
        ({}, False, "cpu"),
        ({}, True, "cuda"),
        ({"accelerator": "auto"}, True, "cuda"),
        ({"accelerator": "cpu"}, True, "cpu"),
        ({"accelerator": "gpu"}, True, "cuda"),
        ({"accelerator": "cuda"}, True, "cuda"),
    ],
)
def test_what_an_accelerator_stands_for(
    trainer: dict[str, str], has_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert device_of(trainer) == expected


@pytest.mark.parametrize("accelerator", ["gpu", "tpu", "cuda"])
def test_a_device_that_is_not_there_is_refused(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=rf"trainer.accelerator = '{accelerator}': .*: cpu"):
        device_of({"accelerator": accelerator})


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE = '2': this command runs in one process"):
        run(["difference"])
