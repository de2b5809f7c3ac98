"""Parts of a model that steering reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from steer_lightning import ConfigError
from steer_lightning.steering.model_parts import (
    has_cached_tokens,
    outputs_seen,
    stream_of,
    with_stream,
)


class Pair(nn.Module):
    """A module that returns a tuple."""

    def forward(self, stream: torch.Tensor) -> tuple[torch.Tensor, None]:
        return stream + 1, None


def test_outputs_are_seen_within_the_block_alone() -> None:
    places = [nn.Identity(), Pair()]
    seen: list[tuple[int, float]] = []
    with outputs_seen(places, lambda row, stream: seen.append((row, float(stream)))):
        for place in places:
            place(torch.full((1, 1, 1), 3.0))
    places[1](torch.full((1, 1, 1), 5.0))
    assert seen == [(0, 3.0), (1, 4.0)]
    told = r"a Tensor of shape \(2, 1, 1, 4\), but .*one stream"
    with outputs_seen(places, lambda row, stream: None), pytest.raises(ConfigError, match=told):
        places[1](torch.zeros(2, 1, 1, 4))


def test_a_pass_goes_on_behind_cached_tokens() -> None:
    caches = [SimpleNamespace(get_seq_length=lambda n=n: n) for n in (0, 4)]
    found = [has_cached_tokens({"past_key_values": cache}) for cache in (None, *caches)]
    assert found == [False, False, True]
    assert not has_cached_tokens({})


def test_streams_side_by_side_are_no_single_one() -> None:
    wide = torch.zeros(2, 3, 8)
    assert stream_of(wide) is wide
    assert stream_of(wide, width=8) is wide
    with pytest.raises(ConfigError, match=r"\(2, 3, 8\), but .*\(rows, tokens, 4\)"):
        stream_of(wide, width=4)


class Named(NamedTuple):
    stream: torch.Tensor
    cache: str


@pytest.mark.parametrize("wrap", [tuple, list, Named._make], ids=["tuple", "list", "named tuple"])
def test_another_stream_takes_the_first_place_in_the_same_kind_of_output(wrap: Any) -> None:
    output, other = wrap([torch.zeros(1, 1, 1), "cache"]), torch.ones(1, 1, 1)
    assert with_stream(output, other) == wrap([other, "cache"])
    assert type(with_stream(output, other)) is type(output)
    assert with_stream(torch.zeros(1, 1, 1), other) is other
