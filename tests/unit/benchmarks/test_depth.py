"""The bases of the benchmark of depth, and the maps by which vectors come there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from depth import bases

from scripts.change_depth import read_map
from steer_lightning.steering.layer_map import read_layer_map


def test_maps_by_hand() -> None:
    found = bases()
    assert len(found) == 12
    assert found["as it is"] == {"base": "0,1,2,3", "map": "0,1,2,3"}
    assert found["predicted behind 1"] == {
        "base": "0,1,+,2,3",
        "map": "0,1,1,2,3",
        "added none": "0,1,-,2,3",
        "index": "0,1,2,3,-",
    }
    # `index` would be the same again
    assert found["layer 3 twice"] == {
        "base": "0,1,2,3,3",
        "map": "0,1,2,3,3",
        "added none": "0,1,2,3,-",
    }
    assert found["without layer 3"] == {"base": "0,1,2", "map": "0,1,2"}


@pytest.mark.parametrize("name", bases())
def test_the_maps_fit_the_base(name: str) -> None:
    maps = bases()[name]
    depth = len(read_map(maps.pop("base"), 4))
    for places in maps.values():
        assert len(read_layer_map(places, 4, depth)) == depth
