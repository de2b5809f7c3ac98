"""Markdown of the command line: what `--help` prints, and the options of verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import settings_text

from steer_lightning.cli import COMMANDS
from steer_lightning.cli.completion import as_text
from steer_lightning.cli.configs import copy
from steer_lightning.cli.init import init
from steer_lightning.cli.vectors import VERBS

FUNCTIONS = {**settings_text.TARGETS, "init": init, "completion": as_text, "configs": copy}
"""Classes and functions whose arguments are the options of a command."""


def help_text(command: str, level: int) -> str:
    """Returns what a command prints for `--help`, of a command that has a text of its own."""
    return f"```text\n{import_module(COMMANDS[command].module).HELP}\n```\n"


def options_text(command: str, level: int) -> str:
    """Returns the options of a command."""
    return "\n".join(_options(command, FUNCTIONS[command]))


def verbs_text(command: str, level: int) -> str:
    """Returns the verbs of `vectors`, each with its options."""
    text = []
    for verb, act in VERBS.items():
        text.append(f"{'#' * level} `{command} {verb}`\n\n{settings_text.first_paragraph(act)}\n")
        text += _options(f"{command} {verb}", act)
    return "\n".join(text)


def _options(command: str, function: Callable[..., Any]) -> Iterator[str]:
    return settings_text.rows(function, f"{command} --", page="settings.md")
