"""Errors are told as text, and those that nobody expects are logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import gradio as gr
import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.play.telling import telling, told


def test_messages_are_text() -> None:
    error = told(ConfigError("mixture", "<img src=x>", rule="is\nwrong"))
    assert "<" not in error.message
    assert "&lt;img src=x&gt;" in error.message


def test_a_handler_shows_pictures_and_then_its_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(count: int) -> AsyncGenerator[int, None]:
        yield count
        raise RuntimeError("a <fault>")

    async def main() -> None:
        shown = telling(handler)(3)
        assert await anext(shown) == 3
        with pytest.raises(
            gr.Error, match=r"RuntimeError: a &lt;fault&gt;. The terminal says more"
        ):
            await anext(shown)

    asyncio.run(main())
    assert "a <fault>" in caplog.text
    assert "Traceback" in caplog.text
