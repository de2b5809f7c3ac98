"""Maps of layers between models of different depth."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.steering.layer_map import read_layer_map


def test_maps_are_read() -> None:
    assert read_layer_map("0,1,2,2,3", 4, 5) == (0, 1, 2, 2, 3)
    assert read_layer_map(" 0, - ,3 ", 4, 3) == (0, None, 3)
    assert read_layer_map("-", 1, 1) == (None,)
    assert read_layer_map("11,10", 12, 2) == (11, 10)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0,1,4", r"has the entry '4', which is neither a layer from 0 to 3 nor '-'"),
        ("0,-1,2", "has the entry '-1'"),
        ("0,1.5,2", "has the entry '1.5'"),
        ("0,,2", "has the entry ''"),
        ("", "has the entry ''"),
        ("0-2", "has the entry '0-2'"),
        ("0,²,2", "has the entry '²'"),
        ("0,1,9999999999999999999999", "has the entry '99999"),
        ("0,1", "has 2 entries, but the base has 3 decoder layers"),
        ("0,1,2,3", "has 4 entries, but the base has 3 decoder layers"),
    ],
)
def test_what_is_no_map_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_layer_map(text, 4, 3)
    assert str(caught.value).startswith("map = ")
