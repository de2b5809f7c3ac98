"""Text of unknown origin, made safe for a terminal."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text with control characters shown, not sent.

    What a model writes must not drive a terminal.
    """
    return CONTROL.sub(lambda found: repr(found.group())[1:-1], text)
