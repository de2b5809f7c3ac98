"""Settings of sampling."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.rollout import Sampling


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group_size", 0),
        ("temperature", -1.0),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_settings_out_of_range_are_errors(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{key}"):
        Sampling(**{key: value})
