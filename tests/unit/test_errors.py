"""The message of a mistake."""

from __future__ import annotations

from steer_lightning.errors import UNKNOWN, ConfigError, ConfigErrors


def test_the_message_has_key_value_rule_reason_and_remedy() -> None:
    error = ConfigError("a.b", 0, rule="must be 1", why="0 does nothing", fix="Set it to 1")
    assert str(error) == "a.b = 0: must be 1. 0 does nothing. Set it to 1."
    assert (error.key, error.value, error.rule) == ("a.b", 0, "must be 1")
    assert isinstance(error, ValueError)


def test_parts_that_are_not_there_leave_no_trace() -> None:
    assert str(ConfigError("a", None, rule="must be set")) == "a = None: must be set."
    assert str(ConfigError("a", UNKNOWN, rule="is odd", fix="Mend it")) == "a: is odd. Mend it."


def test_a_long_value_is_cut() -> None:
    message = str(ConfigError("a", "x" * 1000, rule="is long"))
    assert message == "a = '" + "x" * 296 + "...: is long."
    assert str(ConfigError("a", "x" * 295, rule="is long")) == "a = '" + "x" * 295 + "': is long."


def test_several_mistakes_are_told_in_a_line_each() -> None:
    both = [ConfigError("a", 1, rule="is odd"), ConfigError("b", UNKNOWN, rule="must be set")]
    error = ConfigErrors(both)
    assert str(error) == "2 settings are wrong:\na = 1: is odd.\nb: must be set."
    assert error.errors == both
    assert isinstance(error, ConfigError)
