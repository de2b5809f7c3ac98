"""The template of a callback, in the folder for your own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from callbacks.my_callback import StopWhenSolved
from steer_lightning import ConfigError
from tests.made_up_step import make_step


def test_the_template_callback_stops_after_enough_good_steps() -> None:
    callback = StopWhenSolved(reward=0.6, num_steps=2)
    trainer = SimpleNamespace(should_stop=False)
    good = SimpleNamespace(last_step=make_step())  # 2/3
    bad = SimpleNamespace(last_step=SimpleNamespace(rewards=torch.zeros(1, 1)))
    stops = []
    for module in (good, bad, good, good):
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        stops.append(trainer.should_stop)
    assert stops == [False, False, False, True]
    other = StopWhenSolved()
    other.load_state_dict(callback.state_dict())
    assert other._in_a_row == 2
    with pytest.raises(ConfigError, match="num_steps"):
        StopWhenSolved(num_steps=0)
