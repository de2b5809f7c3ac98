"""The device of the command `difference`, and what it says of the best scale."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.cli.difference import _advice, device_of, run


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


@pytest.mark.parametrize(
    ("highs", "best", "expected"),
    [
        ({0: None, 0.1: 0.2, 0.2: 0.3}, 0.1, ""),
        ({0: None, 0.1: 0.2, 0.2: 0.3}, 0.2, " (the last one tried; try more with --scales)"),
        ({-0.1: 0.3, 0: None}, -0.1, " (the last one tried; try more with --scales)"),
        ({0: None, 0.1: 0.0, 0.2: -0.1}, 0, " (the base model; the vectors are 0)"),
        ({0: None}, 0, " (the base model; the vectors are 0)"),
        ({0: None, 0.1: None}, 0, " (the base model; the vectors are 0)"),
        (
            {-0.2: -0.3, 0: None, 0.1: -0.01, 0.4: -0.1},
            0,
            " (the base model; the vectors are 0. Even scale 0.1 is worse than the base: try "
            "smaller ones with --scales)",
        ),
    ],
)
def test_the_best_scale_says_what_to_try_next(
    highs: dict[float, float | None], best: float, expected: str
) -> None:
    rows = [{"scale": scale, "difference_high": high} for scale, high in highs.items()]
    assert _advice(rows, best) == expected
