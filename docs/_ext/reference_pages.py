"""Sphinx extension: writes generated text into pages, and checks that no public name is missing.

A page asks for text by a comment on a line of its own: `<!-- generated: keys model -->`. GitHub
shows nothing there; the site shows the keys of `model`, each with a heading below the last one.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import commands_text
import public_names
import settings_text
from myst_parser.mdit_to_docutils.base import default_slugify
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

WRITERS = {
    "keys": settings_text.keys_text,
    "classes": settings_text.classes_text,
    "options": commands_text.options_text,
    "verbs": commands_text.verbs_text,
    "help": commands_text.help_text,
}
"""Functions that write Markdown, by the word that asks for them."""

ASKED = re.compile(r"^<!-- generated: (\w+) (\S+) -->$", re.MULTILINE)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
KEY = re.compile(r"(model|data|trainer)(\.\w+)+")
FORMATTED = re.compile(r"= f(['\"]).*?\1")
"""A default that is computed, which Sphinx can't read."""

log = logging.getLogger(__name__)


@cache
def generated(writer: str, word: str, level: int) -> str:
    """Returns a generated part, which is written once."""
    return WRITERS[writer](word, level)


def with_generated_text(text: str) -> str:
    """Returns a page with its generated parts."""

    def written(asked: re.Match[str]) -> str:
        level = len(HEADING.findall(text[: asked.start()])[-1]) + 1
        return generated(asked[1], asked[2], level)

    return ASKED.sub(written, text)


def slug(title: str) -> str:
    """Returns the anchor of a heading: GitHub's, but `model-sampling` for `model.sampling`."""
    return settings_text.anchor(title) if KEY.fullmatch(title) else default_slugify(title)


def _prepare(app: Sphinx) -> None:
    """Writes all generated parts before autodoc changes the defaults of the classes."""
    for page in Path(app.srcdir).rglob("*.md"):
        with_generated_text(page.read_text(encoding="utf-8"))


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = with_generated_text(source[0])


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    shown: Any = env.get_domain("py").objects  # type: ignore[attr-defined]
    for name in public_names.missing(shown):
        log.warning("the reference lacks the public name %s, or its docstring", name)


def _signature(*facts: Any) -> tuple[str | None, str | None]:
    """Leaves out the arguments of a protocol, of which no object is made, and long defaults."""
    x, _, arguments, returned = facts[3:]
    if getattr(x, "_is_protocol", False):
        return "", None
    return FORMATTED.sub("= ...", arguments) if arguments else None, returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers what happens when a page is read, and when all pages are."""
    app.connect("builder-inited", _prepare)
    app.connect("source-read", _read)
    app.connect("autodoc-process-signature", _signature)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
