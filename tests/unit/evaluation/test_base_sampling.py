"""How the base is sampled, where only some of its settings are its own."""

from __future__ import annotations

from dataclasses import fields

import pytest

from steer_lightning import ConfigError
from steer_lightning.evaluation.base_sampling import BaseSampling
from steer_lightning.rollout import Sampling

ARMS = Sampling(group_size=4, top_p=0.9, max_new_tokens=77, eos_token_ids=[5], stop_strings=["x"])


def test_what_is_not_set_is_that_of_the_arms() -> None:
    assert BaseSampling().over(ARMS) == ARMS
    hot = BaseSampling(temperature=2.0, stop_strings=[]).over(ARMS)
    assert (hot.group_size, hot.temperature, hot.top_p) == (4, 2.0, 0.9)
    assert (hot.max_new_tokens, hot.eos_token_ids, hot.stop_strings) == (77, [5], [])


def test_a_greedy_base_answers_once_unless_more_is_asked_for() -> None:
    greedy = BaseSampling(temperature=0.0).over(ARMS)
    assert (greedy.group_size, greedy.max_new_tokens) == (1, 77)
    assert BaseSampling(temperature=0.0, group_size=3).over(ARMS).group_size == 3


def test_its_settings_are_those_of_sampling() -> None:
    assert [x.name for x in fields(BaseSampling)] == [x.name for x in fields(Sampling)]
    with pytest.raises(ConfigError, match=r"top_p = 2.0: must be from 0"):
        BaseSampling(top_p=2.0).over(ARMS)
