"""The text of a completion while its tokens are drawn, piece by piece."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from steer_lightning.rollout.stop_text import BROKEN


class TextStream:
    """Turns tokens into text, and hands out each piece as soon as it can't change any more.

    A piece is held back while it ends inside a character, or while it may be the beginning of a
    stop string, since a stop string is not part of the text. Only the newest tokens are decoded,
    together with those of the piece before them: decoders change the beginning of a text, such as
    the space that it starts with.

    Args:
        tokenizer: Tokenizer of the policy.
        left_out: Tokens that are not text; see `ids_without_text`.
        stop_strings: Texts that end the completion.

    Attributes:
        has_stopped: Whether the text contained a stop string, before which it is cut off.
    """

    def __init__(
        self, tokenizer: Any, left_out: Collection[int], stop_strings: Sequence[str] = ()
    ) -> None:
        self._tokenizer, self._left_out, self._stop_strings = tokenizer, left_out, stop_strings
        self._before: list[int] = []  # tokens of the last piece
        self._newest: list[int] = []  # tokens behind it
        self._known = ""  # text of `_before`
        self._held = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Adds a token; returns the text that has become certain, which may be empty."""
        if token in self._left_out or self.has_stopped:
            return ""
        self._newest.append(token)
        text = self._decode([*self._before, *self._newest])
        if text.endswith(BROKEN):
            return ""
        self._held += text[len(self._known) :]
        self._before, self._newest = self._newest, []
        self._known = self._decode(self._before)
        self._cut()
        return self._hand_out(len(self._held) - self._num_uncertain())

    def end(self) -> str:
        """Returns the rest of the text, after the last token."""
        if not self.has_stopped:
            self._held += self._decode([*self._before, *self._newest])[len(self._known) :]
            self._newest = []
            self._cut()
        return self._hand_out(len(self._held))

    def _cut(self) -> None:
        """Cuts the text off before the first stop string."""
        places = [place for x in self._stop_strings if (place := self._held.find(x)) >= 0]
        if places:
            self._held, self.has_stopped = self._held[: min(places)], True

    def _num_uncertain(self) -> int:
        """Returns the number of characters at the end that may begin a stop string."""
        if self.has_stopped:
            return 0
        longest = max(map(len, self._stop_strings), default=0) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(x.startswith(self._held[-count:]) for x in self._stop_strings):
                return count
        return 0

    def _hand_out(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text
