"""The search for stop strings in the text of a completion, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Stands in a text for bytes that do not form a whole character."""


class StopText:
    """Finds out whether the newest token completes a stop string in the text of a completion.

    The text is the decoded tokens of the completion, with all spaces and without the prompt. At
    each token only the last tokens are decoded, in a window that can't miss a stop string:

    - A token spells at least one byte, so that a stop string of n bytes lies within n tokens.
    - Decoders change the beginning of a text, such as the space that it starts with, within its
      first token. So the window begins one token earlier.
    - Some decoders turn a whole run of single-byte tokens into replacement characters if the run
      begins inside a character. So a window that shows one is tried again up to three tokens
      earlier: a byte has at most three others of its character in front of it.

    A window may also show a stop string that the text does not contain. So if a window shows one,
    the whole text is decoded.

    Args:
        tokenizer: Tokenizer of the policy.
        strings: Stop strings.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self._tokenizer, self._strings = tokenizer, strings
        self._window = max(len(string.encode()) for string in strings)

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Returns whether the last token of a completion completes a stop string."""
        for before in range(1, 5):
            text = self._decode(tokens[-self._window - before :])
            if any(string in text for string in self._strings):
                return self._is_new(tokens)
            if BROKEN not in text:
                break
        return False

    def _is_new(self, tokens: Sequence[int]) -> bool:
        """Returns whether the whole text contains a stop string only since the newest token."""
        text, earlier = self._decode(tokens), self._decode(tokens[:-1])
        return any(string in text and string not in earlier for string in self._strings)

    def _decode(self, tokens: Sequence[int]) -> str:
        """Decodes all tokens, including those that `decode_texts` leaves out."""
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text
