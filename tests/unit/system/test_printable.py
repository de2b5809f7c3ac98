"""Text of unknown origin is made safe for a terminal."""

from __future__ import annotations

from steer_lightning.system.printable import printable


def test_control_characters_are_shown_not_sent() -> None:
    assert printable("a\x1b[2J\r\u202eb\n\tc") == "a\\x1b[2J\\r\\u202eb\n\tc"
