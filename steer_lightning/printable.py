"""Text of unknown origin, made safe for a terminal."""

from __future__ import annotations

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
