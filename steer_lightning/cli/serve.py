"""The command `serve`: a base and vectors behind the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence

from steer_lightning.cli import interruptible
from steer_lightning.cli.like_runs import made_like_runs
from steer_lightning.endpoint.server import Endpoint
from steer_lightning.system.printable import one_line

OF_RUNS = ("template", "dtype", "revision")
"""Settings that are those of the run that made the vectors, unless they are given."""
OTHERS = ("benchmarks", "sampling", "verifier", "max_prompt_tokens")
"""Settings of runs that do not matter here, and in which runs may differ."""


def run(words: Sequence[str]) -> None:
    """Runs `serve` until SIGTERM or Ctrl-C.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake, before the base loads.
    """
    endpoint = made_like_runs(
        words[1:],
        Endpoint,
        prog="steer-lightning serve",
        description="Serves a base and vectors by the OpenAI API.",
        keys=OF_RUNS,
        others=OTHERS,
    )

    def tell() -> None:
        models = ", ".join(endpoint.models.names)
        print(f"models:  {one_line(models)}; another scale: NAME@0.5")
        print(f"address: {one_line(endpoint.url)}; Ctrl-C ends it", flush=True)

    with interruptible("answers under way were completed"):
        endpoint.run(tell)
