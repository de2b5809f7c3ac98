"""The texts of tokens: of single ones, also of those that are only part of a character."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from steer_lightning.rollout.completions import decode_texts
from steer_lightning.rollout.text_stream import TextStream


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each character by which GPT-2 and its successors write bytes.

    A byte that is a visible character of Latin-1 is written as this character, and the n-th of the
    others as the character 256 + n (Radford et al. 2019, "Language Models are Unsupervised
    Multitask Learners").
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {
        **{chr(byte): byte for byte in visible},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }


ALPHABET = _byte_alphabet()

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""Token of SentencePiece for a byte of a character that has no token."""


class TokenTexts:
    """Turns tokens into text; threads may share it.

    Args:
        tokenizer: Tokenizer, which is copied, since tokenizers are not made for several threads.
        left_out: Tokens that only begin or end a text; see `ids_without_text`.
    """

    def __init__(self, tokenizer: Any, left_out: Collection[int]) -> None:
        self._tokenizer, self._left_out = copy.deepcopy(tokenizer), left_out
        self._lock = threading.Lock()
        self._added = set(tokenizer.added_tokens_decoder)
        self._texts: dict[int, str] = {}
        kinds = set(_decoders(tokenizer))
        self._writes_bytes, self._has_byte_tokens = "ByteLevel" in kinds, "ByteFallback" in kinds

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        """Decodes tokens as a tokenizer does."""
        with self._lock:
            text: str = self._tokenizer.decode(tokens, **options)
        return text

    def whole(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, without those that only begin or end a text."""
        with self._lock:
            return decode_texts(self._tokenizer, [tokens], self._left_out)[0]

    def of(self, token: int) -> str:
        """Returns the text of a single token, also of one that begins or ends a text.

        Bytes that are no whole character stand in it as U+FFFD.
        """
        if token not in self._texts:
            self._texts[token] = self.decode([token], clean_up_tokenization_spaces=False)
        return self._texts[token]

    def bytes_of(self, token: int) -> bytes:
        """Returns the bytes of a token, which may be part of a character."""
        with self._lock:
            piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece and token not in self._added:
            found = BYTE_TOKEN.fullmatch(piece)
            if self._has_byte_tokens and found:
                return bytes.fromhex(found[1])
            if self._writes_bytes and all(character in ALPHABET for character in piece):
                return bytes(ALPHABET[character] for character in piece)
        return self.of(token).encode()

    def offsets(self, tokens: Sequence[int], first: int) -> list[int]:
        """Returns the number of characters before each token of a text.

        Args:
            tokens: Tokens.
            first: Number of characters before the first of them.
        """
        stream, found = TextStream(self, self._left_out), []
        for token in tokens:
            found.append(first)
            first += len(stream.add(token))
        return found


def _decoders(tokenizer: Any) -> Iterator[str]:
    """Yields the kinds of decoders by which a fast tokenizer turns tokens into text."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    left = [] if decoder is None else [json.loads(decoder.__getstate__())]
    while left:
        found = left.pop()
        yield found["type"]
        left += found.get("decoders", [])
