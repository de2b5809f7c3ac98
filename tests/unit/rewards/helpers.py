"""A completion to be scored."""

from __future__ import annotations

from steer_lightning.types import Completion


def completion(
    text: str, answer: str = "42", num_tokens: int = 5, finished: bool = True
) -> Completion:
    return Completion(
        text=text, question="q", answer=answer, num_tokens=num_tokens, finished=finished
    )
