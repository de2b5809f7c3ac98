"""The command `sweep`: many experiments on one loaded base."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from steer_lightning.cli.fit import few_messages
from steer_lightning.cli.resumable_runs import RunInProgress
from steer_lightning.cli.short_names import short_names
from steer_lightning.cli.sweep_fit import ExperimentCLI, check_alike
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.sweep.experiments import (
    Experiment,
    each_layer,
    from_file,
    from_grid,
    parse_axis,
)
from steer_lightning.sweep.run import Prepared, SideBySide
from steer_lightning.system.printable import one_line
from steer_lightning.system.yaml_size import bound_yaml
from steer_lightning.training.resume import get_random_states

log = logging.getLogger(__name__)

OUTPUT = "output.txt"
"""File in an experiment's folder that receives what `fit` would print."""

HELP = """\
usage: steer-lightning sweep --config FILE ... --grid KEY=[VALUE,...] [--grid ...] [options of fit]
       steer-lightning sweep --config FILE ... --experiments FILE [options of fit]
       steer-lightning sweep --config FILE ... --each-layer [options of fit]

Trains many experiments side by side on one loaded base. Each one becomes a run as `fit` makes it,
in a folder of its own under trainer.default_root_dir. An interrupted sweep goes on when the same
command is given again, and experiments that have ended are not trained again.

options:
  --grid KEY=[VALUE,...]  values of a key of the configuration; several grids are combined
  --experiments FILE      a YAML list of mappings from keys to values, each with a name or without
  --each-layer            one experiment for each decoder layer, which steers that layer alone
  --dry_run               lists the experiments, and trains nothing

All other options are those of fit: steer-lightning fit --help"""


@dataclass
class Options:
    """What the command line asks for."""

    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Values by key."""
    file: str | None = None
    """File of experiments."""
    each_layer: bool = False
    """Whether each decoder layer is an experiment."""
    dry_run: bool = False
    """Whether experiments are only listed."""
    words: list[str] = field(default_factory=list)
    """Words for `fit`."""


def read(words: Sequence[str]) -> Options:
    """Reads the options of `sweep`, and leaves those of `fit`.

    Raises:
        ConfigError: If an option has no value, or none or several say what to try.
    """
    options, rest = Options(), list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        plain = name.replace("-", "_")
        if plain in ("__grid", "__experiments"):
            if not equals and not rest:
                raise ConfigError(name.lstrip("-"), UNKNOWN, rule="needs a value")
            value = value if equals else rest.pop(0)
            if plain == "__grid":
                key, values = parse_axis(value)
                if key in options.grid:
                    raise ConfigError(f"grid {key}", values, rule="is given twice")
                options.grid[key] = values
            else:
                options.file = value
        elif plain == "__each_layer":
            options.each_layer = value.lower() != "false"
        elif plain == "__dry_run":
            options.dry_run = value.lower() != "false"
        else:
            options.words.append(name + equals + value)
    if (bool(options.grid), options.file is not None, options.each_layer).count(True) != 1:
        raise ConfigError(
            "sweep",
            UNKNOWN,
            rule="needs exactly one of --grid, --experiments and --each-layer",
            fix='For instance: --grid "model.optimizer.init_args.lr=[0.005,0.02]"',
        )
    return options


def experiments_of(options: Options, num_layers: int) -> list[Experiment]:
    """Returns the experiments that the options ask for."""
    if options.each_layer:
        return each_layer(num_layers)
    if options.file is not None:
        return from_file(Path(options.file))
    return from_grid(options.grid)


def run(words: Sequence[str]) -> None:
    """Runs `sweep`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration of an experiment.
        KeyboardInterrupt: After Ctrl-C, once all experiments are saved.
    """
    if "--help" in words or "-h" in words:
        print(HELP)
        return
    options = read(words[1:])
    bound_yaml()
    with short_names(), few_messages(), ExitStack() as stack:
        prepared = [
            ExperimentCLI(stack.enter_context(closing(RunInProgress())), experiment, options.words)
            for experiment in experiments_of(options, 0)
        ]
        check_alike(prepared)
        if options.dry_run:
            for cli in prepared:
                print(one_line(f"{cli.experiment.name}{'  (has ended)' if cli.ended else ''}"))
            return
        waiting = [cli for cli in prepared if cli.ended is None]
        if waiting:
            train(waiting)


def train(experiments: Sequence[ExperimentCLI]) -> None:
    """Trains experiments side by side.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once all are saved.
        SystemExit: After another signal, with 128 and its number.
    """
    outputs = [open_output(cli) for cli in experiments]
    redirections: dict[int, Any] = {}

    def begin(number: int) -> None:
        redirections[number] = redirect_stdout(outputs[number])
        redirections[number].__enter__()

    def end(number: int) -> None:
        redirections.pop(number).__exit__(None, None, None)

    ready = [
        Prepared(
            name=cli.experiment.name,
            module=cli.model,
            fit=cli.carry_out,
            random_states=get_random_states(),
        )
        for cli in experiments
    ]
    with stopped_by_signals(experiments) as received:
        lanes = SideBySide(ready, before_turn=begin, after_turn=end).run()
    for cli, lane in zip(experiments, lanes, strict=True):
        told = "" if lane.error is None else f"  {type(lane.error).__name__}: {lane.error}"
        print(one_line(f"{cli.experiment.name}: {cli.run.folder}{told}"))
    if received:
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received[0])


def open_output(cli: ExperimentCLI) -> TextIO:
    """Opens the file that receives what an experiment prints."""
    assert cli.run.folder is not None
    return (cli.run.folder / OUTPUT).open("a", encoding="utf-8", buffering=1)


@contextmanager
def stopped_by_signals(experiments: Sequence[ExperimentCLI]) -> Iterator[list[int]]:
    """Lets all experiments save and end after their step at Ctrl-C, SIGTERM or SIGUSR1.

    A second signal ends the process at once.

    Yields:
        The numbers of the signals that have come.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            sys.exit(128 + number)
        received.append(number)
        for cli in experiments:
            cli.stop(number)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), handle) for name in names}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
