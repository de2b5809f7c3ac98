"""What overflows is refused with its layer, instead of being shown as NaN."""

from __future__ import annotations

import math

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.results.lens import Look, describe
from steer_lightning.results.lens.finite import check_finite
from steer_lightning.testing import make_prompts, tiny_policy
from tests.unit.results.lens.helpers import description, inside


def test_what_is_finite_passes() -> None:
    assert check_finite("a", description(inside=inside())) is None


@pytest.mark.parametrize(
    ("size", "told"),
    [
        # the square root of 32 * (1e25)^2 is 5.7e25, but its squares exceed 3.4e38
        (1e25, "layers.norm of layer 1 is inf. .* norm inf, is that of layer 1"),
        # their norm, 5.7e18, can be computed, but the model's squares of twice as much can't
        (1e18, None),
    ],
)
def test_vectors_that_overflow_name_their_layer(size: float, told: str | None) -> None:
    policy = tiny_policy()
    vectors = torch.zeros(3, 32)
    vectors[1] = size
    policy.steering.set_vectors(vectors)
    found = describe(policy, policy.steering, make_prompts(["ab"]), Look(), None)
    if told is None:
        check_finite("a", found)
        return
    with pytest.raises(ConfigError, match=f"vectors = 'a': can't be shown, since {told}"):
        check_finite("a", found)


def test_without_a_layer_of_its_own_the_largest_vector_is_named() -> None:
    found = description(first_token={"kl": math.nan, "prompts": []})
    told = r"first_token\.kl is nan\. .* of norm 12, is that of layer 4\. Give vectors of a smaller"
    with pytest.raises(ConfigError, match=told):
        check_finite("a", found)


def test_a_base_that_overflows_by_itself_is_not_laid_at_the_vectors_door() -> None:
    layer = {"layer": 4, "norm": 12.0, "stream_rms": math.inf, "norm_over_stream": 0.0}
    told = r"layers\.stream_rms of layer 4 is inf\. The base's own .* Set dtype: float32\."
    with pytest.raises(ConfigError, match=told):
        check_finite("a", description(layers=[layer]))


def test_numbers_from_inside_name_the_layer_of_the_part() -> None:
    found = inside()
    found["alone"][0]["mlp"]["relative"] = math.inf
    with pytest.raises(ConfigError, match=r"inside\.alone\.mlp\.relative of layer 6 is inf"):
        check_finite("a", description(inside=found))
