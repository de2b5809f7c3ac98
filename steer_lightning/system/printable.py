"""Functions that make text of unknown origin safe for terminals and files, and align columns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from unicodedata import category


def printable(text: str) -> str:
    """Escapes control characters, text direction marks and lone surrogates in a text.

    A model's output must not control a terminal, and writing it to one must not fail.
    """
    # true of most texts, and a hundred times faster than the loop over characters
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\n\t" or character.isprintable() or category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: object) -> str:
    """Returns a text on one line: a line break in a name must not start what looks like a message.

    Args:
        text: A text, or a path or exception to show as text.
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def indented(text: object) -> str:
    """Returns a text in which all lines but the first begin with spaces.

    So no line of a traceback, which may contain a completion, looks like a message of its own.

    Args:
        text: A text, or an exception to show as text.
    """
    return "\n    ".join(map(printable, str(text).split("\n")))


def quoted(text: str) -> str:
    """Returns a text as one line in quotes, which show where it begins and ends."""
    return f'"{one_line(text)}"'


def python_text(text: object) -> str:
    """Returns a text as Python source in double quotes, as formatters write it.

    Args:
        text: A text, or a path.
    """
    source = repr(str(text))
    return source if '"' in source else f'"{source[1:-1]}"'


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Aligns rows of cells in columns, each cell on one line.

    Args:
        rows: Rows of cells, all of the same length.
        right: Numbers of the columns that are right-aligned, as columns of numbers should be.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def valid_unicode(text: str) -> str:
    """Replaces lone surrogates, which tokenizers and Parquet refuse, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class PrintableRecord(logging.LogRecord):
    """A log record whose message is safe for a terminal, whichever library wrote it.

    Messages contain text from files, such as the name of the base in a file of vectors.
    """

    def getMessage(self) -> str:  # the name is given by logging
        """Returns the message of `logging.LogRecord`, made printable."""
        return printable(super().getMessage())
