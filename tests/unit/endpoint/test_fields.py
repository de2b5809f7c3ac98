"""Fields of a request: what is read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.endpoint.fields import Fields, parsed


@pytest.mark.parametrize("content", [b"", b"{", b"\xff{}", b"[" * 100_000, b"[]", b'"x"', b"NaN"])
def test_a_body_is_a_json_object(content: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(content)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert parsed(b'{"n": 1}') == {"n": 1}


def read(value: str) -> Fields:
    return Fields({"x": json.loads(value)}, {"x"})


@pytest.mark.parametrize("value", ['"1"', "true", "NaN", "Infinity", "-0.1", "2.01", "[]", "1e999"])
def test_numbers_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(ApiError, match="must be a number from 0 to 2") as caught:
        read(value).number("x", 1.0, 0, 2)
    assert caught.value.param == "x"


@pytest.mark.parametrize("value", ['"1"', "true", "NaN", "1.5", "0", "5", "{}"])
def test_whole_numbers_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(ApiError, match="must be a whole number from 1 to 4"):
        read(value).integer("x", 1, 1, 4)


def test_values_in_range_are_read() -> None:
    assert read("0").number("x", 1.0, 0, 2) == 0
    assert [read(x).integer("x", 1, 1, 4) for x in ("1", "4", "2.0", "null")] == [1, 4, 2, 1]
    assert [read(x).boolean("x", True) for x in ("true", "false", "null")] == [True, False, True]
    assert read('"a"').text("x") == "a"
    assert [read(x).texts("x", 2, 3) for x in ('"abc"', '["a", "b"]', "null")] == [
        *(["abc"], ["a", "b"], []),
    ]
    assert read("[0, 9]").integers("x", 2, 10) == [0, 9]


@pytest.mark.parametrize("value", ["1", '""', '["a", ""]', '["a", "b", "c"]', '"abcd"', "[1]"])
def test_texts_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(ApiError, match="a list of up to 2"):
        read(value).texts("x", 2, 3)


@pytest.mark.parametrize("value", ["1", "[10]", "[-1]", "[true]", "[1, 2, 3]", '"ab"'])
def test_tokens_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(ApiError, match="a list of up to 2 tokens from 0 to 9"):
        read(value).integers("x", 2, 10)


def test_other_types_are_refused() -> None:
    for value in ("1", '"true"'):
        with pytest.raises(ApiError, match="true or false"):
            read(value).boolean("x")
    for value in ("1", "null"):
        with pytest.raises(ApiError, match="must be a text"):
            read(value).text("x")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"frobnicate": 1}, "unknown_parameter"),
        ({"presence_penalty": 0.5}, "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter"),
    ],
)
def test_fields_that_would_do_nothing_are_refused(body: dict[str, Any], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        Fields(body, {"x"})
    assert (caught.value.code, caught.value.param) == (code, next(iter(body)))


def test_fields_that_change_nothing_are_taken() -> None:
    body = {
        "presence_penalty": 0.0,
        "best_of": 1,
        "tools": [],
        "user": "u",
        "suffix": None,
        "y": None,
    }
    assert Fields({**body, "x": 1}, {"x"}).get("x") == 1
