"""Text of unknown origin is made safe for a terminal."""

from __future__ import annotations

from steer_lightning.system.printable import aligned, indented, printable


def test_control_characters_are_shown_not_sent() -> None:
    assert printable("a\x1b[2J\r\u202eb\n\tc") == "a\\x1b[2J\\r\\u202eb\n\tc"


def test_a_forged_message_begins_no_line() -> None:
    assert indented("a\nerror: fake\x1b[2J") == "a\n    error: fake\\x1b[2J"
    assert aligned([["a\nb", "1"], ["c", "2"]]) == "a\\nb  1\nc     2"
