"""How the page tells of errors."""

from __future__ import annotations

import html
import logging
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

import gradio as gr

from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.errors import ConfigError
from steer_lightning.inference.service import Closed, TooManyRequests
from steer_lightning.system.printable import indented, one_line

log = logging.getLogger(__name__)

TOLD = (ApiError, ConfigError, Closed, TooManyRequests, FloatingPointError, TimeoutError, OSError)
"""Errors whose messages are for the person in front of the page."""

Pictures = AsyncGenerator[Any, None]
"""What a handler shows, one after the other."""


def told(error: Exception) -> gr.Error:
    """Returns an error as the page shows it."""
    if isinstance(error, TOLD):
        message = one_line(error)
    else:
        log.error("the page failed:\n%s", indented("".join(traceback.format_exception(error))))
        message = f"{type(error).__name__}: {one_line(error)}. The terminal says more"
    # the page reads the message as HTML, and it may name files and texts
    return gr.Error(html.escape(message), duration=None, print_exception=False)


def telling(handler: Callable[..., Pictures]) -> Callable[..., Any]:
    """Makes a handler show its errors to the person in front of the page."""

    @wraps(handler)
    async def shown(*args: Any) -> Pictures:
        try:
            async with aclosing(handler(*args)) as pictures:
                async for picture in pictures:
                    yield picture
        except Exception as error:  # whatever it is, the page goes on
            raise told(error) from error

    return shown
