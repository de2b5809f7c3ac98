"""Mixtures are weighted sums, read from text, with a factor for each layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.fingerprint import sha256
from steer_lightning.play.mixture import (
    Mixture,
    check_names,
    expression_of,
    mixed,
    read_expression,
    save_mixture,
    with_weight,
)
from steer_lightning.steering import SiteVectors, load_vectors
from steer_lightning.steering.adaptive import AdaptiveVectors
from steer_lightning.steering.arithmetic import plain_vectors

NAMES = ("a", "run-1", "run-1 (2)", "b/run-1", "2nd")


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("a", {"a": 1.0}),
        ("0.5 * a + 0.3 * run-1", {"a": 0.5, "run-1": 0.3}),
        ("0.5*a-.25*b/run-1", {"a": 0.5, "b/run-1": -0.25}),
        ("-run-1", {"run-1": -1.0}),
        ("- 2e-1 * run-1 (2) + a", {"run-1 (2)": -0.2, "a": 1.0}),
        ("2nd + 2 * 2nd", {"2nd": 3.0}),
        ("a - a", {"a": 0.0}),
    ],
)
def test_expressions_are_read(text: str, weights: dict[str, float]) -> None:
    assert dict(read_expression(text, NAMES)) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ends too soon"),
        ("0.5 *", "ends too soon"),
        ("a +", "ends too soon"),
        ("0.5 * c", "at 'c'"),
        ("a * 0.5", "at 'a * 0.5'"),
        ("aa", "at 'aa'"),
        ("1e3 * a", "from -100 to 100"),
        ("1e999 * a", "from -100 to 100"),
        ("60 * a + 60 * a", "from -100 to 100"),
        ("a + " * 1000 + "a", "at most 2000 characters"),
        ("0.5 a", "at '0.5 a'"),
    ],
)
def test_other_texts_are_refused_at_their_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_expression(text, NAMES)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["a", "a - b"], "a - b"),  # a minus b, if there is a b
        (["a + 0.5 * b", "a"], "a + 0.5 * b"),
        (["a", "b - c", "a - b", "c"], "a - b"),  # a - (b - c) would be (a - b) - c
        (["-a"], "-a"),
        (["a", "2 * a"], "2 * a"),
        (["x "], "x "),
    ],
)
def test_names_that_read_like_sums_are_refused(names: list[str], name: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be told from a sum.*Rename it") as caught:
        check_names(names)
    assert caught.value.value == name
    assert caught.value.fix in (
        "Rename it, for example to 'a_b'",
        "Rename it, for example to 'a_0.5_b'",
        "Rename it, for example to 'a'",
        "Rename it, for example to '2_a'",
        "Rename it, for example to 'x'",
    )


def test_names_with_a_minus_are_told_from_differences() -> None:
    """With spaces a minus is one; without, it may be part of a name."""
    names = ["a", "b", "a-b", "b - a"]
    check_names(names[:3])
    assert read_expression("a-b", names[:3]) == (("a-b", 1.0),)
    assert read_expression("a - b", names[:3]) == (("a", 1.0), ("b", -1.0))
    assert read_expression("a-b - a-b", names[:3]) == (("a-b", 0.0),)
    with pytest.raises(ConfigError, match="vectors = 'b - a'"):
        check_names(names)
    check_names(["x - y"])
    check_names(NAMES)


def test_an_expression_is_written_as_it_is_read() -> None:
    for text in ("0.5 * a + 0.3 * run-1", "-a - 2 * 2nd", "run-1 (2)", "0.6666666667 * a"):
        assert expression_of(read_expression(text, NAMES)) == text
    assert expression_of((("a", 1.0000001),)) == "1.0000001 * a"


def test_a_weight_is_changed_in_the_expression() -> None:
    assert with_weight("0.5 * a - 2nd", "2nd", 0.25, NAMES) == "0.5 * a + 0.25 * 2nd"
    assert with_weight("0.5 * a - 2nd", "run-1", 1.0, NAMES) == "0.5 * a - 2nd + run-1"
    assert with_weight("0.5 * a - 2nd", "a", 0.0, NAMES) == "-2nd"
    assert with_weight("a", "a", 0.0, NAMES) == "0 * a"
    assert with_weight("a", "a", 2, NAMES) == "2 * a", "a slider gives whole numbers as such"
    with pytest.raises(ConfigError, match="at 'c'"):
        with_weight("c", "a", 1.0, NAMES)


def vectors(rows: list[list[float]], layers: list[int], **options: str) -> SiteVectors:
    return plain_vectors(torch.tensor(rows), layers, 3, {"base_model": "m"}, **options)  # type: ignore[arg-type]


def test_a_mixture_is_the_weighted_sum_times_the_factors_of_layers() -> None:
    known = {"a": vectors([[1.0, 2.0], [3.0, 4.0]], [0, 1]), "b": vectors([[10.0, 20.0]], [1])}
    mixture = Mixture(weights=(("a", 0.5), ("b", -1.0)), layer_factors=(2.0, 3.0, 7.0))
    found = mixed(mixture, known)
    assert found.layers == (0, 1)
    assert found.vectors.tolist() == [[1.0, 2.0], [3 * (1.5 - 10), 3 * (2.0 - 20)]]


def test_vectors_alone_are_taken_as_they_are_also_with_gates() -> None:
    gated = AdaptiveVectors(scale="none").shaped(2, 3)
    alone = Mixture(weights=(("g", 1.0),), layer_factors=(1.0,) * 3)
    assert mixed(alone, {"g": gated}) is gated
    with pytest.raises(ConfigError, match="g has gates"):
        mixed(Mixture(weights=(("g", 1.0),), layer_factors=(1.0, 0.0, 1.0)), {"g": gated})


@pytest.mark.parametrize("option", [{"site": "mlp_output"}, {"tokens": "prompt"}])
def test_vectors_of_different_sites_or_tokens_are_not_mixed(option: dict[str, str]) -> None:
    known = {"a": vectors([[1.0, 2.0]], [0]), "b": vectors([[1.0, 2.0]], [0], **option)}
    with pytest.raises(ConfigError, match=r"b acts at .* but a at layer_output on all tokens"):
        mixed(Mixture(weights=(("a", 1.0), ("b", 1.0)), layer_factors=(1.0,) * 3), known)


def test_a_saved_mixture_has_the_scale_and_says_what_it_is_made_of(tmp_path: Path) -> None:
    known = {"a": vectors([[1.0, 2.0]], [0]), "b": vectors([[3.0, 5.0]], [2])}
    mixture = Mixture(weights=(("a", 0.5), ("b", 1.0)), layer_factors=(1.0, 1.0, 0.0))
    known["a"].metadata |= {"step": "7", "base_bits": "4"}
    known["b"].metadata |= {"base_bits": "4"}
    known["a"].metadata |= {"base_model": "other", "revision": "its own"}
    save_mixture(tmp_path / "x.safetensors", mixture, -2.0, known, "m", "main")
    found = load_vectors(tmp_path / "x.safetensors")
    assert found.vectors.tolist() == [[-1.0, -2.0], [0.0, 0.0]]
    assert (found.metadata["base_model"], found.metadata["revision"]) == ("m", "main")
    assert found.metadata["base_bits"] == "4", "those of all parts"
    assert json.loads(found.metadata["origin"]) == {
        "mixture": "0.5 * a + b",
        "scale": -2.0,
        "layer_factors": [1.0, 1.0, 0.0],
        "sha256": {name: sha256(x.result().items()) for name, x in known.items()},
        "step": {"a": "7"},
    }


def test_vectors_with_gates_are_saved_at_scale_1_only(tmp_path: Path) -> None:
    gated = {"g": AdaptiveVectors(scale="none").shaped(2, 3)}
    alone = Mixture(weights=(("g", 1.0),), layer_factors=(1.0,) * 3)
    save_mixture(tmp_path / "x.safetensors", alone, 1.0, gated, "m")
    assert isinstance(load_vectors(tmp_path / "x.safetensors"), AdaptiveVectors)
    with pytest.raises(ConfigError, match="has gates"):
        save_mixture(tmp_path / "y.safetensors", alone, 2.0, gated, "m")
    assert not (tmp_path / "y.safetensors").exists()
