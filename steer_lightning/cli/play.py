"""The command `play`: a page in the browser on which a person tries vectors out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from steer_lightning.cli import interruptible
from steer_lightning.cli.options import read_options
from steer_lightning.cli.run_settings import given_options, settings_of_runs, texts
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
    words = words[1:]
    given = given_options(words)
    of_run, files = settings_of_runs(texts(given.get("vectors")), {*given, *OTHERS})
    of_run = {key: of_run[key] for key in OF_RUNS if key in of_run}
    options = read_options(
        [f"--config={json.dumps(of_run)}", *words] if of_run else words,
        Play,
        prog="steer-lightning play",
        description="Opens a page in the browser on which vectors can be tried out.",
    )
    play = Play(**options)
    if of_run:
        names = ", ".join(map(str, files))
        print(one_line(f"settings taken from {names}, unless given: {', '.join(of_run)}"))

    def tell(url: str, link: str | None) -> None:
        if link is not None:
            print(f"public:  {one_line(link)}")
        print(f"page:    {one_line(url)}; Ctrl-C ends it", flush=True)

    with interruptible("answers under way were completed"):
        play.run(tell)
