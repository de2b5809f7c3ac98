"""The page of the command line has every command and every option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands_text import help_text, options_text, verbs_text

from steer_lightning.cli import COMMANDS
from steer_lightning.cli.completion import words_of
from steer_lightning.cli.vectors import VERBS

PAGE = (Path(__file__).parents[4] / "docs/reference/command-line.md").read_text()
ASKED = re.findall(r"^<!-- generated: (\w+) (\S+) -->$", PAGE, re.MULTILINE)
WRITERS = {"options": options_text, "verbs": verbs_text, "help": help_text}
OF_ALL = {"help", "config"}
OF_DIFFERENCE = re.compile(r"(model|data|trainer|seed_everything|ckpt_path|weights_only)\b")
"""What `difference` takes from the configuration of `fit`."""


@pytest.mark.parametrize("command", sorted({command for _, command in ASKED}))
def test_every_option_of_the_help_is_on_the_page(command: str) -> None:
    text = "".join(WRITERS[writer](name, 3) for writer, name in ASKED if name == command)
    options = set(words_of(command).options) - OF_ALL
    if command == "difference":
        options = {name for name in options if not OF_DIFFERENCE.match(name)}
    if command == "sweep":
        options -= set(words_of("fit").options)  # which are on the page, too
    shown = set(re.findall(r"`--(\w+)`|^  --([\w-]+)", text, re.MULTILINE))
    shown = {"".join(pair) for pair in shown}
    top = {name.partition(".")[0] for name in options}
    assert top <= shown, top - shown
    assert shown <= top


def test_every_command_has_a_section_and_a_row() -> None:
    sections = "".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    table = PAGE.partition("\n## ")[0]
    assert all(name in sections and f"`{name}`" in table for name in COMMANDS)
    training = {"fit", "validate", "test"}
    assert {command for _, command in ASKED} == set(COMMANDS) - training


def test_every_verb_has_a_heading() -> None:
    text = verbs_text("vectors", 3)
    assert re.findall(r"^### `vectors (\w+)`$", text, re.MULTILINE) == list(VERBS)
    assert "[`--factor`]{#vectors-scale-factor}\n: Any finite number" in text


def test_kinds_of_classes_are_linked_on_their_own_page() -> None:
    assert "mapping of names to [Source](settings.md#source)" in options_text("evaluate", 3)
