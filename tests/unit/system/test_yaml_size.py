"""YAML that would unfold too far is refused, by its number of values."""

from __future__ import annotations

import json

import pytest
import yaml

from steer_lightning.system import yaml_size
from steer_lightning.system.yaml_size import check_yaml_size, load_bounded

TEXT = "a: &a [1, 2, 3]\nb: [*a, *a]"
"""A mapping, two keys, the list of 4 values at `a`, and at `b` a list of 1 + 4 + 4: 16 values."""


@pytest.mark.parametrize(("most", "fits"), [(16, True), (15, False)])
def test_an_alias_counts_as_what_it_stands_for(
    most: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_size, "MAX_NODES", most)
    inside = "x: " + json.dumps(TEXT)  # a text in which jsonargparse may read YAML again
    if fits:
        assert load_bounded(TEXT) == {"a": [1, 2, 3], "b": [[1, 2, 3]] * 2}
        check_yaml_size(inside)
    else:
        for text in (TEXT, inside):
            with pytest.raises(yaml.YAMLError, match="unfolds into more than 15 values"):
                load_bounded(text)


def test_a_text_without_aliases_may_have_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_size, "MAX_NODES", 3)
    assert load_bounded(f"a: {list(range(50))}") == {"a": list(range(50))}


def test_what_contains_itself_is_too_large() -> None:
    with pytest.raises(yaml.YAMLError, match="unfolds"):
        check_yaml_size("a: &a {b: *a}")


def test_a_text_that_is_no_yaml_is_left_to_the_parser() -> None:
    check_yaml_size("a: &a [*a")
    with pytest.raises(yaml.YAMLError, match="line 1"):
        load_bounded("a: &a [*a")
