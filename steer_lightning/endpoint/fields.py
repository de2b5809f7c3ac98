"""Reads the fields of a request, and refuses what is out of range or has no effect here."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from steer_lightning.endpoint.api_error import ApiError, shown

WITHOUT_EFFECT = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
}
"""Fields that do not change an answer, and are not read."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields of OpenAI's API that this server does not have, with the values that change nothing."""


def parsed(content: bytes) -> dict[str, Any]:
    """Parses the body of a request.

    Raises:
        ApiError: If it is no JSON object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            f"the body is not valid JSON ({error}). Send a JSON object", code="invalid_json"
        ) from error
    if not isinstance(found, dict):
        raise ApiError(f"the body must be a JSON object, not {shown(found)}", code="invalid_json")
    return found


class Fields:
    """The fields of a request; null stands for a field that is not there.

    Args:
        body: Body of the request.
        known: Names of the fields that are read.

    Raises:
        ApiError: If there are other fields.
    """

    def __init__(self, body: dict[str, Any], known: Collection[str]) -> None:
        self._body = {name: value for name, value in body.items() if value is not None}
        for name, value in self._body.items():
            if name in known or name in WITHOUT_EFFECT:
                continue
            if name not in NEUTRAL:
                raise ApiError(
                    f"there is no field {shown(name)}: the fields are {', '.join(sorted(known))}",
                    param=name,
                    code="unknown_parameter",
                )
            if value not in NEUTRAL[name]:
                raise ApiError(
                    f"{name} = {shown(value)} is not supported by this server. Leave it out",
                    param=name,
                    code="unsupported_parameter",
                )

    def get(self, name: str) -> Any:
        """Returns a field as it is; None if it is not there."""
        return self._body.get(name)

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """Returns a number within bounds, which are included."""
        value = self._body.get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise self._refusal(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """Returns a whole number within bounds, which are included."""
        value = self._body.get(name, default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value, is_whole = int(value), True
        if not is_whole or not least <= value <= most:
            raise self._refusal(name, f"a whole number from {least} to {most}")
        return int(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """Returns true or false."""
        value = self._body.get(name, default)
        if not isinstance(value, bool):
            raise self._refusal(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Returns a text that must be there."""
        value = self._body.get(name)
        if not isinstance(value, str):
            raise self._refusal(name, "a text")
        return value

    def texts(self, name: str, most: int, longest: int) -> list[str]:
        """Returns a text, or a list of texts, as a list; none of them is empty."""
        value = self._body.get(name, [])
        found = [value] if isinstance(value, str) else value
        is_right = isinstance(found, list) and len(found) <= most
        if not is_right or not all(isinstance(x, str) and 0 < len(x) <= longest for x in found):
            raise self._refusal(
                name, f"a text of up to {longest} characters, or a list of up to {most} of these"
            )
        return [str(x) for x in found]

    def integers(self, name: str, most: int, below: int) -> list[int]:
        """Returns a list of whole numbers from 0."""
        value = self._body.get(name, [])
        is_right = isinstance(value, list) and len(value) <= most
        if not is_right or not all(type(x) is int and 0 <= x < below for x in value):
            raise self._refusal(name, f"a list of up to {most} tokens from 0 to {below - 1}")
        return list(value)

    def _refusal(self, name: str, rule: str) -> ApiError:
        value = self._body.get(name)
        return ApiError(f"{name} = {shown(value)}: must be {rule}", param=name)
