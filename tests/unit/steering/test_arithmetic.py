"""Arithmetic on vectors, by hand."""

from __future__ import annotations

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.steering import AdaptiveVectors, SteeringVectors
from steer_lightning.steering.arithmetic import (
    averaged,
    description_of,
    plain_vectors,
    quantised,
    scaled,
    sliced,
    summed,
    transplanted,
)
from tests.unit.steering.helpers import A, B, make_vectors, rows_of


def test_by_hand() -> None:
    a, b = make_vectors(A), make_vectors(B)
    assert rows_of(scaled(a, -0.5)) == {0: [-0.5, -1.0], 2: [-1.5, 2.0]}
    assert rows_of(summed([a, b])) == {0: [1.0, 2.0], 2: [13.0, -4.0], 3: [0.5, 0.5]}
    assert rows_of(summed([a, b], [2.0, -1.0]))[2] == [-4.0, -8.0]
    assert rows_of(averaged([a, b])) == {0: [0.5, 1.0], 2: [6.5, -2.0], 3: [0.25, 0.25]}
    assert rows_of(averaged([a, a, a, a])) == A
    assert rows_of(sliced(a, "2")) == {2: [3.0, -4.0]}
    assert rows_of(sliced(a, [2, 0])) == A
    assert rows_of(transplanted(a, "c", 4, 2)) == A
    assert rows_of(a) == A, "nothing is changed in place"


def test_places_follow_and_do_not_mix() -> None:
    a = make_vectors(A)
    elsewhere = plain_vectors(a.vectors, a.layers, 4, site="mlp_output", tokens="prompt")
    for made in (scaled(elsewhere, 2.0), sliced(elsewhere, "2"), summed([elsewhere, elsewhere])):
        assert (made.site, made.tokens) == ("mlp_output", "prompt")
    with pytest.raises(ConfigError, match=r"mlp_output for prompt tokens.*layer_output for all"):
        summed([a, elsewhere])
    gated = AdaptiveVectors([0, 2]).shaped(2, 4)
    with pytest.raises(ConfigError, match=r"AdaptiveVectors.*gates"):
        scaled(gated, 2.0)


@pytest.mark.parametrize(
    ("bits", "kept"),
    [(("4", "4"), "4"), (("4", "8"), None), (("4", None), None), ((None, "4"), None)],
)
def test_the_bits_of_the_base_are_those_that_all_parts_of_a_sum_name(
    bits: tuple[str | None, str | None], kept: str | None
) -> None:
    parts = [make_vectors(A), make_vectors(B)]
    for part, told in zip(parts, bits, strict=True):
        part.metadata |= {"base_bits": told} if told else {}
    for made in (summed(parts), averaged(parts), summed(parts[::-1])):
        assert made.metadata.get("base_bits") == kept
    assert scaled(parts[0], 2.0).metadata.get("base_bits") == bits[0]
    assert "base_bits" not in transplanted(parts[0], "other", 4, 2).metadata, "its own has no bits"
    assert "base_bits" not in transplanted(parts[0], "s", 2, 2, layer_map="0,2").metadata


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("m", "r"), ("m", "r"), {"base_model": "m", "revision": "r"}),
        (("m", "r"), ("m", "s"), {"base_model": "m"}),
        (("m", "r"), ("m", ""), {"base_model": "m"}),
        (("m", "r"), ("n", "r"), {}),
        (("m", ""), ("", ""), {}),
    ],
)
def test_a_sum_names_the_base_and_revision_that_all_its_parts_name(
    first: tuple[str, str], second: tuple[str, str], kept: dict[str, str]
) -> None:
    parts = [
        make_vectors(rows, base_model=base, revision=revision)
        for rows, (base, revision) in ((A, first), (B, second))
    ]
    for made in (summed(parts), averaged(parts), summed(parts[::-1])):
        told = {key: made.metadata.get(key) for key in ("base_model", "revision")}
        assert {key: text for key, text in told.items() if text} == kept


def test_vectors_that_were_just_trained_hand_on_the_bits_of_their_base() -> None:
    trained = make_vectors(A)
    trained.base_bits = 8
    assert scaled(trained, 2.0).metadata["base_bits"] == "8"
    assert summed([trained, trained]).metadata["base_bits"] == "8"
    assert "base_bits" not in summed([trained, make_vectors(B)]).metadata
    assert "base_bits" not in transplanted(trained, "other", 4, 2).metadata


def test_metadata_follows() -> None:
    a, b = make_vectors(A), make_vectors(B)
    assert scaled(a, 2.0).metadata == a.metadata
    assert sliced(a, "2").metadata["step"] == "9"
    assert summed([a, b]).metadata == {"base_model": "b"}, "a sum was trained for no steps"
    moved = transplanted(a, "org/other", 4, 2, "abc").metadata
    assert moved == {"base_model": "org/other", "revision": "abc", "step": "9"}
    assert a.metadata == {"base_model": "b", "step": "9"}
    assert not summed([a, b]).weight.requires_grad


def test_quantised_vectors_tell_how_long_their_description_is() -> None:
    a = make_vectors({0: [1.0, 2.0, 0.0, 0.5], 2: [3.0, -5.0, 0.0, 1.0]})
    found = quantised(a, 1, 0.5)
    assert rows_of(found) == {0: [1.5, 1.5, 0, 0], 2: [4, -4, 0, 0]}
    # header 116, and in 2 layers a mask of ceil(log2 6), a scale of 32, 2 numbers of 1 bit
    facts = {"bits": "1", "keep": "0.5", "description_bits": "190"}
    assert found.metadata == {**a.metadata, **facts}
    assert description_of(a, 1, 0.5).total == 190
    assert rows_of(quantised(a, 32)) == rows_of(a)
    assert rows_of(quantised(a, 16))[2] == pytest.approx([3, -5, 0, 1], abs=1e-4)
    for other in (scaled(found, 2.0), sliced(found, "2"), summed([found, a])):
        assert not set(facts) & set(other.metadata), "the numbers are others"


def test_vectors_move_to_a_model_of_another_depth() -> None:
    a = make_vectors(A)
    repeated = transplanted(a, "deep", 6, 2, layer_map="0,0,1,2,2,3")
    assert rows_of(repeated) == {0: [1, 2], 1: [1, 2], 3: [3, -4], 4: [3, -4]}
    assert repeated.num_layers == 6
    assert repeated.metadata == {"base_model": "deep", "revision": "", "step": "9"}
    assert rows_of(transplanted(a, "deep", 5, 2, layer_map="0,-,1,2,3")) == {0: [1, 2], 3: [3, -4]}
    shallow = transplanted(a, "s", 2, 2, layer_map="2,3")
    assert (rows_of(shallow), shallow.num_layers) == ({0: [3, -4]}, 2)
    swapped = transplanted(a, "c", 4, 2, layer_map="2,1,0,3")
    assert rows_of(swapped) == {0: [3, -4], 2: [1, 2]}
    with pytest.raises(ConfigError, match=r"map = '1,3': leaves no vector\. Only layers 0, 2"):
        transplanted(a, "s", 2, 2, layer_map="1,3")
    with pytest.raises(ConfigError, match="has 5 entries, but the base has 6 decoder layers"):
        transplanted(a, "deep", 6, 2, layer_map="0,1,2,2,3")
    with pytest.raises(ConfigError, match="width 3, but these vectors have width 2"):
        transplanted(a, "deep", 5, 3, layer_map="0,1,2,2,3")
    with pytest.raises(ConfigError, match="or set map to the layer whose vector"):
        transplanted(a, "deep", 5, 2)
    with pytest.raises(ConfigError, match="gates"):
        transplanted(AdaptiveVectors([0, 2]).shaped(2, 4), "deep", 2, 2, layer_map="0,2")


def test_units_are_multiplied_out() -> None:
    vectors = SteeringVectors([1]).shaped(2, 4)
    vectors.set_unit(torch.tensor([8.0]))
    vectors.weight.data[:, :2] = torch.tensor([[1.0, 0.5]])
    assert rows_of(scaled(vectors, 2.0)) == {1: [16.0, 8.0]}


def test_what_does_not_fit_is_refused() -> None:
    a = make_vectors(A)
    with pytest.raises(
        ConfigError, match=r"file 2.*is for 5 decoder layers of width 2, but the first"
    ):
        summed([a, make_vectors(B, num_layers=5)])
    with pytest.raises(ConfigError, match="must be 2, one for each file"):
        summed([a, a], [1.0])
    with pytest.raises(ConfigError, match=r"layers 1 have no vector\. .*for the layers 0, 2"):
        sliced(a, "0-2")
    with pytest.raises(ConfigError, match=r"layers = 'x': must be"):
        sliced(a, "x")
    with pytest.raises(ConfigError, match=r"width 3, but these vectors have width 2.*trained on b"):
        transplanted(a, "c", 4, 3)
    with pytest.raises(ConfigError, match=r"6 decoder layers, but these vectors are for 4.*depth"):
        transplanted(a, "c", 6, 2)
    for bits in (0, -1, 17, 31, 33):
        with pytest.raises(ConfigError, match=rf"bits = {bits}: must be from 1 to 16, or 32"):
            quantised(a, bits)
    for keep in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ConfigError, match=r"keep = .*above 0 and at most 1"):
            quantised(a, 4, keep)
    with pytest.raises(ConfigError, match="gates"):
        quantised(AdaptiveVectors([0, 2]).shaped(2, 4), 4)
    for factor in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be finite"):
            scaled(a, factor)
    with pytest.raises(ConfigError, match="the result must be finite"):
        scaled(a, 1e38 * 10)
