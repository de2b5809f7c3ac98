"""The command `play`: a page in the browser on which a person tries vectors out."""

from __future__ import annotations

from collections.abc import Sequence

from steer_lightning.cli import interruptible
from steer_lightning.cli.like_runs import made_like_runs
from steer_lightning.play.server import Play
from steer_lightning.system.printable import one_line

OF_RUNS = ("template", "dtype", "revision", "benchmarks", "sampling", "verifier")
"""Settings that are those of the run that made the vectors, unless they are given."""
OTHERS = ("max_prompt_tokens",)
"""Settings of runs that do not matter here, and in which runs may differ."""


def run(words: Sequence[str]) -> None:
    """Runs `play` until SIGTERM or Ctrl-C.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake, before the base loads.
    """
    play = made_like_runs(
        words[1:],
        Play,
        prog="steer-lightning play",
        description="Opens a page in the browser on which vectors can be tried out.",
        keys=OF_RUNS,
        others=OTHERS,
    )

    def tell(url: str, link: str | None) -> None:
        if link is not None:
            print(f"public:  {one_line(link)}")
        print(f"page:    {one_line(url)}; Ctrl-C ends it", flush=True)

    with interruptible("answers under way were completed"):
        play.run(tell)
