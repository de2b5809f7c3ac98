"""Errors have the form and the status that clients of the API know."""

from __future__ import annotations

import pytest
import torch

from steer_lightning.endpoint.api_error import ApiError, of_failure, shown
from steer_lightning.inference.service import Closed, Dead, TooManyRequests


def test_an_error_is_an_object_of_the_api() -> None:
    error = ApiError("n = 0:\nmust be 1\x1b[31m", param="n", code="wrong")
    told = {"message": "n = 0:\\nmust be 1\\x1b[31m", "type": "invalid_request_error"}
    assert error.body == {"error": {**told, "param": "n", "code": "wrong"}}
    assert error.status == 400


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError("x", 404, code="c"), 404, "c"),
        (TooManyRequests("12 prompts wait"), 429, "rate_limit_exceeded"),
        (Closed("the end"), 503, "shutting_down"),
        (Dead("the thread"), 503, "engine_dead"),
        (TimeoutError("late"), 504, "timeout"),
        (FloatingPointError("NaN"), 400, "not_finite"),
        (torch.OutOfMemoryError("16 GB"), 503, "out_of_memory"),
        (RuntimeError("a path /secret"), 500, "internal_error"),
        (KeyError("x"), 500, "internal_error"),
    ],
)
def test_failures_have_a_status(error: Exception, status: int, code: str) -> None:
    told = of_failure(error)
    assert (told.status, told.code) == (status, code)
    assert "secret" not in str(told)
    assert (told.body["error"]["type"] == "server_error") == (status >= 500)
    assert told.headers == ({"Retry-After": "1"} if status == 429 else {})


def test_values_are_shown_as_short_json() -> None:
    assert shown("\u202eé") == '"\\u202e\\u00e9"'
    assert len(shown(list(range(1000)))) == 83
