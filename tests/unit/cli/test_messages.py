"""What is said of an interruption, and of what a plug-in refuses."""

from __future__ import annotations

import pytest

from steer_lightning import ConfigError
from steer_lightning.cli import interruptible
from steer_lightning.cli.messages import explain_refusal


def test_an_interrupted_command_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, interruptible("nothing is lost"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing is lost\n"


def test_the_plug_ins_own_error_is_found_in_the_chain() -> None:
    own = ConfigError("Mine.size", -1, rule="must be at least 1")
    middle = TypeError("none of the types fits")
    middle.__context__ = own
    outer = ValueError("Problem with given class_path")
    outer.__cause__ = middle
    assert explain_refusal(outer) is own
    assert explain_refusal(own) is own
    plain = explain_refusal(ValueError("class_path='mine.Reward'\n  - Errors:\n  - too small."))
    assert (plain.key, plain.rule) == ("mine.Reward", "too small")
