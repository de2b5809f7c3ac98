"""Text of unknown origin, made safe for terminals and files; and text in columns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from unicodedata import category


def printable(text: str) -> str:
    """Text with controls, text directions and lone surrogates shown, not sent.

    What a model writes must not drive a terminal, nor fail to be written to one.
    """
    if text.replace("\n", "").replace("\t", "").isprintable():  # most text; a hundred times faster
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\n\t" or character.isprintable() or category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: object) -> str:
    """The same on one line: a line break in a name must not look like a message of its own.

    Args:
        text: A text, or a path or exception that is shown as one.
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def quoted(text: str) -> str:
    """One line, in quotes, that shows where a text begins and ends."""
    return f'"{one_line(text)}"'


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows of cells as columns.

    Args:
        rows: All of the same length.
        right: Columns that are flush right, as numbers should be.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def valid_unicode(text: str) -> str:
    """Text with lone surrogates, which neither tokenizers nor Parquet take, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


class PrintableRecord(logging.LogRecord):
    """A log record whose message is safe for a terminal, whichever library it is of.

    Messages hold what comes from files, such as the base that vectors name.
    """

    def getMessage(self) -> str:  # logging's name
        """See `logging.LogRecord`."""
        return printable(super().getMessage())
