"""What sources around another source have in common."""

from __future__ import annotations

from steer_lightning.types import Source


class SourceAround:
    """Base class of the sources that change or choose the problems of another one.

    A benchmark may say how many completions its figures need (`num_samples`, such as the 32 of
    `AIME24`). That stays so when its problems are changed, so every such source hands it on.

    Args:
        source: Source of the problems.

    Attributes:
        source: Source of the problems.
        num_samples: Number of completions that the source asks for; only if it names one.
    """

    source: Source
    num_samples: int

    def __init__(self, source: Source) -> None:
        self.source = source
        if hasattr(source, "num_samples"):
            self.num_samples = source.num_samples
