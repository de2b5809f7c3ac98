"""Options of commands that answer as the runs do whose vectors they are given."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from steer_lightning.cli.options import read_options
from steer_lightning.cli.run_settings import given_options, settings_of_runs, texts
from steer_lightning.system.printable import one_line

T = TypeVar("T")


def made_like_runs(
    words: Sequence[str],
    make: Callable[..., T],
    *,
    prog: str,
    description: str,
    keys: Collection[str],
    others: Collection[str],
) -> T:
    """Makes what a command runs, from its words and the settings of the runs behind `--vectors`.

    It prints which settings were taken from which files.

    Args:
        words: Words behind the command.
        make: Class whose signature and docstring define the options.
        prog: Command, such as `steer-lightning serve`.
        description: One sentence for `--help`.
        keys: Settings that are those of the runs, unless they are given.
        others: Settings of runs that do not matter here, and in which runs may differ.

    Raises:
        ConfigError: For any mistake, in one message.
    """
    given = given_options(words)
    found, files = settings_of_runs(texts(given.get("vectors")), {*given, *others})
    of_run = {key: found[key] for key in keys if key in found}
    before = [f"--config={json.dumps(of_run)}"] if of_run else []
    made = make(**read_options([*before, *words], make, prog=prog, description=description))
    if of_run:
        names = ", ".join(map(str, files))
        print(one_line(f"settings taken from {names}, unless given: {', '.join(of_run)}"))
    return made
