"""Types as an annotation in a source file gives them."""

from __future__ import annotations

import ast

import pytest

from steer_lightning.cli.first_types import (
    Choice,
    Kind,
    ListOf,
    MapOf,
    Plain,
    Record,
    Type,
    Types,
    is_spec,
)
from steer_lightning.cli.signatures import Parameter, Sources

NONE = Plain("None")


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", (Plain("int"),)),
        ("str | None", (Plain("str"), NONE)),
        ("Optional[Union[int, float]]", (Plain("int"), Plain("float"), NONE)),
        ("Literal['a', 'b'] | None", (Choice(("a", "b")), NONE)),
        ("dict[str, Source]", (MapOf((Kind("Source"),)),)),
        ("list[int] | Literal['each']", (ListOf((Plain("int"),)), Choice(("each",)))),
        ("torch.nn.Module | None", (Kind("Module"), NONE)),
        ("'Steering'", (Kind("Steering"),)),
        ("OptimizerFactory", (Kind("Optimizer"),)),
        ("Callable[[int], int]", (Type(),)),
        ("Nowhere", (Type(),)),
        ("tuple[int, int]", (Type(),)),
    ],
)
def test_annotations_are_read(annotation: str, expected: tuple[Type, ...]) -> None:
    node = ast.parse(annotation, mode="eval").body
    found = Types(Sources()).of(Parameter(node, "steer_lightning.module", True))
    assert found == expected


def test_names_are_looked_up_where_they_stand() -> None:
    sources = Sources()
    steering = sources.signature("steer_lightning.steering.SteeringVectors")
    assert steering is not None
    (site,) = Types(sources).of(steering.parameters["site"])
    assert isinstance(site, Choice)
    assert {"layer_output", "mlp_output"} <= {*site.values}
    module = sources.signature("steer_lightning.module.SteeringModule")
    assert module is not None
    (sampling,) = Types(sources).of(module.parameters["sampling"])
    assert isinstance(sampling, Record)
    assert "group_size" in sampling.signature.parameters
    assert Types(sources).of(Parameter(None, "x", True)) == (Type(),)


def test_values_that_fit() -> None:
    assert Plain("int").takes(3)
    assert not Plain("int").takes("many")
    assert not Plain("bool").takes([True])
    assert Plain("str").takes("many")
    assert not Plain("str").takes({})
    assert NONE.takes("null")
    assert not NONE.takes(3)
    assert Choice(("a", 1)).takes("1")
    assert not Choice(("a", 1)).takes("b")
    assert not Kind("Loss").takes("Clip")
    assert Type().takes("anything")
    assert [Plain("float").said, NONE.said, Choice(("a",)).said] == ["a number", "", "one of 'a'"]


def test_a_spec_names_a_class_or_its_arguments() -> None:
    assert is_spec({"class_path": "x"})
    assert is_spec({"init_args": {}})
    assert not is_spec({"layers": "all"})
    assert not is_spec("class_path")
