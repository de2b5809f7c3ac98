"""Text of unknown origin is made safe for a terminal."""

from __future__ import annotations

from steer_lightning.system.printable import aligned, indented, printable, python_text


def test_control_characters_are_shown_not_sent() -> None:
    assert printable("a\x1b[2J\r\u202eb\n\tc") == "a\\x1b[2J\\r\\u202eb\n\tc"


def test_a_forged_message_begins_no_line() -> None:
    assert indented("a\nerror: fake\x1b[2J") == "a\n    error: fake\\x1b[2J"
    assert aligned([["a\nb", "1"], ["c", "2"]]) == "a\\nb  1\nc     2"


def test_a_text_in_source_is_the_same_text() -> None:
    for text in ("plain", "it's", 'a "b"', "\\ \n \x1b", "\U0001f600", "both ' and \""):
        assert eval(python_text(text)) == text
    assert python_text("plain") == '"plain"'
    assert python_text("it's") == '"it\'s"'
