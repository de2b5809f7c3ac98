"""The message of a mistake."""

from __future__ import annotations

import pytest

from steer_lightning.errors import UNKNOWN, ConfigError, ConfigErrors, own_keys, with_own_keys


def test_the_message_has_key_value_rule_reason_and_remedy() -> None:
    error = ConfigError("a.b", 0, rule="must be 1", why="0 does nothing", fix="Set it to 1")
    assert str(error) == "a.b = 0: must be 1. 0 does nothing. Set it to 1."
    assert (error.key, error.value, error.rule) == ("a.b", 0, "must be 1")
    assert isinstance(error, ValueError)


def test_parts_that_are_not_there_leave_no_trace() -> None:
    assert str(ConfigError("a", None, rule="must be set")) == "a = None: must be set."
    assert str(ConfigError("a", UNKNOWN, rule="is odd", fix="Mend it")) == "a: is odd. Mend it."


def test_a_remedy_that_asks_ends_with_its_own_mark() -> None:
    error = ConfigError("a", UNKNOWN, rule="is odd", fix="Did you mean b?")
    assert str(error) == "a: is odd. Did you mean b?"


def test_a_long_value_is_cut() -> None:
    message = str(ConfigError("a", "x" * 1000, rule="is long"))
    assert message == "a = '" + "x" * 296 + "...: is long."
    assert str(ConfigError("a", "x" * 295, rule="is long")) == "a = '" + "x" * 295 + "': is long."


def test_an_error_of_another_commands_work_names_that_commands_keys() -> None:
    names = {"data.template": "template", "model.base": "base"}
    with own_keys(names):
        error = ConfigError(
            "data.template.init_args.text",
            "data.template",
            rule="is not that of model.base",
            why="My.data.template and data.template_2 are others",
            fix="Set data.template.class_path",
        )
        assert with_own_keys("data.template: odd") == "template: odd"
    assert str(error) == (
        "template.init_args.text = 'data.template': is not that of base. "
        "My.data.template and data.template_2 are others. Set template.class_path."
    )
    assert ConfigError("model.base", 1, rule="r").key == "model.base", (
        "outside they are those of fit"
    )


def test_an_error_can_be_moved_to_a_whole_key() -> None:
    error = ConfigError("size", -1, rule="must be 1", why="w", fix="f")
    assert str(error.at("model.size")) == "model.size = -1: must be 1. w. f."
    assert str(error.at("model", "Kind")) == "model = 'Kind': must be 1. w. f."
    with pytest.raises(ConfigError, match=r"model\.size"):
        raise error.at("model.size") from error


def test_several_mistakes_are_told_in_a_line_each() -> None:
    both = [ConfigError("a", 1, rule="is odd"), ConfigError("b", UNKNOWN, rule="must be set")]
    error = ConfigErrors(both)
    assert str(error) == "2 settings are wrong:\na = 1: is odd.\nb: must be set."
    assert error.errors == both
    assert isinstance(error, ConfigError)
