"""The decoder layers of a model, and choices of them."""

from __future__ import annotations

import pytest
import transformers as tf
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.steering import SteeringVectors, find_layers, parse_layers
from steer_lightning.steering.layers import check_ascending, stream_width


def test_a_model_without_known_layers_is_an_error_that_names_paths_and_option() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(ConfigError, match=r"model\.layers.*transformer\.h.*tower.*layers_path"):
        find_layers(Odd())
    assert len(find_layers(Odd(), "tower")) == 1


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", (0, 1, 2, 3)), ("1-2", (1, 2)), ("3", (3,)), ([3, 0], (0, 3))],
)
def test_layer_choices(layers: str | list[int], expected: tuple[int, ...]) -> None:
    assert parse_layers(layers, 4) == expected


@pytest.mark.parametrize("layers", ["2-1", "x", "1-", [], [1, 1], [4], "2-4", [-1], ""])
def test_wrong_layer_choices(layers: str | list[int]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        parse_layers(layers, 4)


def test_a_model_of_parts_of_unlike_width_is_refused() -> None:
    class Parts(nn.Module):
        config = tf.BltConfig()

    with pytest.raises(ConfigError, match=r"Parts.*has no hidden_size"):
        stream_width(Parts())


def test_a_list_whose_order_the_rows_of_vectors_would_not_have_is_refused() -> None:
    check_ascending("all")
    check_ascending("2-4")
    check_ascending([2, 4])
    told = r"steering.layers = \[4, 2\]: must be in ascending order.*Set \[2, 4\]"
    with pytest.raises(ConfigError, match=told):
        SteeringVectors(layers=[4, 2])
