"""The errors of the API, in the form that clients of OpenAI's API know."""

from __future__ import annotations

import json
from typing import Any

from steer_lightning.inference.service import Closed, Dead, TooManyRequests
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.system.printable import one_line


class ApiError(Exception):
    """An error that a client is told.

    Args:
        message: What is wrong, the rule, and the remedy.
        status: HTTP status.
        param: Field of the request that is wrong, if it is one.
        code: Short name of the error for programs.
    """

    def __init__(
        self, message: str, status: int = 400, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(one_line(message))
        self.status, self.code = status, code
        self.param = None if param is None else one_line(param)[:80]

    @property
    def body(self) -> dict[str, Any]:
        """The error as an object of the API."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"Retry-After": "1"} if self.status == 429 else {}


def of_failure(error: Exception) -> ApiError:
    """Returns what a client is told of an error of the engine; its log has the details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TooManyRequests):
        return ApiError(f"{error}. Try again later", 429, code="rate_limit_exceeded")
    if isinstance(error, Dead):
        return ApiError(str(error), 503, code="engine_dead")
    if isinstance(error, Closed):
        return ApiError(str(error), 503, code="shutting_down")
    if isinstance(error, TimeoutError):
        return ApiError(
            f"{error}. Ask for fewer tokens, or start the server with a larger --timeout",
            504,
            code="timeout",
        )
    if isinstance(error, FloatingPointError):
        return ApiError(str(error), 400, param="model", code="not_finite")
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        told = "memory ran out. Start the server with a smaller --max-rows or --max-length"
        return ApiError(told, 503, code="out_of_memory")
    return ApiError("the server failed; its log says more", 500, code="internal_error")


def shown(value: object) -> str:
    """Returns a value of a request as JSON, shortened if it is long."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:80]}..."
