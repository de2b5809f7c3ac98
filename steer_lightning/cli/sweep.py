"""The command `sweep`: many experiments on one loaded base."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import torch
from tqdm import tqdm

from steer_lightning.callbacks import BenchmarkEval
from steer_lightning.cli import ERROR
from steer_lightning.cli.fit import few_messages
from steer_lightning.cli.resumable_runs import DryRun, RunInProgress, is_first_process
from steer_lightning.cli.short_names import short_names
from steer_lightning.cli.sweep_fit import ExperimentCLI, check_alike, remembered_protocols
from steer_lightning.cli.sweep_output import (
    OUTPUT,
    MessagesByExperiment,
    check_open_files,
    messages_by_experiment,
    open_output,
)
from steer_lightning.cli.sweep_processes import connected
from steer_lightning.data.shared_prompts import SharedPrompts
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering import find_layers
from steer_lightning.strategy import allow_open_files
from steer_lightning.sweep.experiments import (
    Experiment,
    each_layer,
    from_file,
    from_grid,
    parse_axis,
)
from steer_lightning.sweep.memory import bytes_of, check_memory, free_memory
from steer_lightning.sweep.progress import MOST_LINES, SweepProgress
from steer_lightning.sweep.record import Listed, SweepRecord
from steer_lightning.sweep.run import Prepared, SideBySide
from steer_lightning.sweep.standings import Accuracy, Standing, final_table
from steer_lightning.system.printable import indented, one_line
from steer_lightning.system.yaml_size import bound_yaml

FLAGS = ("each_layer", "dry_run", "table")
"""Options that are true or false."""

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
  --each_layer            the same
  --dry_run               checks and lists the experiments, and trains nothing
  --table                 a table of all experiments above the progress bar: step, reward, accuracy;
                          printed at each tenth of the steps where the output is no terminal

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
    table: bool = False
    """Whether a table shows the experiments while they train."""
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
        plain = name.replace("-", "_").removeprefix("__")
        if name.startswith("--") and plain in FLAGS:
            setattr(options, plain, _true_or_false(name, value if equals else "true"))
        elif name.startswith("--") and plain in ("grid", "experiments"):
            if not equals and not rest:
                raise ConfigError(name.lstrip("-"), UNKNOWN, rule="needs a value")
            _add(options, plain, value if equals else rest.pop(0))
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


def _true_or_false(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(name.lstrip("-"), value, rule="must be true or false")
    return value.lower() == "true"


def _add(options: Options, name: str, value: str) -> None:
    """Adds a value of `--grid` or `--experiments`."""
    if name == "grid":
        key, values = parse_axis(value)
        if key in options.grid:
            raise ConfigError(
                f"grid {key}",
                values,
                rule="is given twice",
                fix="Put all values into one list",
            )
        options.grid[key] = values
    elif options.file is not None:
        raise ConfigError(
            "experiments", value, rule="is given twice", fix="Put all experiments into one file"
        )
    else:
        options.file = value


def experiments_of(options: Options) -> list[Experiment]:
    """Returns the experiments that the options ask for."""
    if options.each_layer:
        plain = ExperimentCLI(DryRun(), Experiment(name="each-layer", settings={}), options.words)
        policy = plain.model.policy
        return each_layer(len(find_layers(policy.empty_base(), policy.steering.layers_path)))
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
    # further processes are started with these words
    before, sys.argv = sys.argv, [sys.argv[0], *words]
    try:
        status = _run(options)
    finally:
        sys.argv = before
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)


def _run(options: Options) -> int:
    """Prepares all experiments, and lists or trains them; returns the status of the command."""
    with short_names(), remembered_protocols(), few_messages(), ExitStack() as stack:
        kind = DryRun if options.dry_run else RunInProgress
        prepared: list[ExperimentCLI] = []
        begun: list[RunInProgress] = []
        stack.callback(remove_empty_folders, begun)
        limit, experiments = allow_open_files(), experiments_of(options)
        for experiment in checking(experiments):
            running = sum(cli.ended is None for cli in prepared)
            check_open_files(running + 1, len(experiments), limit)
            begun.append(stack.enter_context(closing(kind())))
            like = prepared[0] if prepared else None
            prepared.append(ExperimentCLI(begun[-1], experiment, options.words, like))
        check_alike(prepared)
        check_fit([cli for cli in prepared if cli.ended is None])
        record = record_of(options, prepared)
        if options.dry_run:
            for cli in prepared if is_first_process() else ():
                print(one_line(f"{cli.experiment.name}{'  (has ended)' if cli.ended else ''}"))
            return 0
        with connected(prepared):
            waiting = [cli for cli in prepared if cli.ended is None]
            if not is_first_process():
                return train(waiting) if waiting else 0
            if len(waiting) < len(prepared):
                num_ended = len(prepared) - len(waiting)
                print(f"{num_ended} of {len(prepared)} experiments have ended before")
            with record.kept(print):
                return train(waiting, record, table=options.table) if waiting else 0


def checking(experiments: Sequence[Experiment]) -> Iterable[Experiment]:
    """Shows a bar while many experiments are checked, which takes a moment each."""
    bar = tqdm(experiments, desc="checking the experiments", leave=False, delay=2, disable=None)
    return cast(Iterable[Experiment], bar)


def check_fit(waiting: Sequence[ExperimentCLI]) -> None:
    """Raises a ConfigError if memory can't hold the experiments that have not ended."""
    if waiting:
        policy, strategy = waiting[0].model.policy, waiting[0].trainer.strategy
        dtype = None if policy.dtype == "auto" else getattr(torch, policy.dtype)
        weights = bytes_of(policy.empty_base(), dtype, policy.base_bits)
        check_memory(len(waiting), weights, free_memory(strategy.root_device))


def remove_empty_folders(begun: Sequence[RunInProgress]) -> None:
    """Removes folders of experiments that have left nothing."""
    for folder in [run.folder for run in begun if run.folder is not None]:
        for path in folder.parents[:2]:
            with suppress(OSError):  # it holds something, or does not exist
                path.rmdir()


def record_of(options: Options, experiments: Sequence[ExperimentCLI]) -> SweepRecord:
    """Returns the record of a sweep, which becomes its `sweep.json`.

    Raises:
        ConfigError: If there is a `sweep.json` that no sweep has written.
    """
    asked = {
        "grid": options.grid or None,
        "experiments": options.file,
        "each_layer": options.each_layer,
    }
    listed = [
        Listed(
            experiment=cli.experiment,
            folder=cli.ended or cli.run.folder,
            ended=cli.ended is not None,
        )
        for cli in experiments
    ]
    return SweepRecord(experiments[0].root, asked, listed)


def train(
    experiments: Sequence[ExperimentCLI], record: SweepRecord | None = None, *, table: bool = False
) -> int:
    """Trains experiments side by side.

    Args:
        experiments: Experiments that have not ended.
        record: Record that is kept up to date; None in all processes but the first.
        table: Whether a table shows them while they train.

    Returns:
        Status of the command: 128 and the number of a signal, 1 if an experiment failed, else 0;
        0 in all processes but the first.
    """
    prompts = SharedPrompts()
    for cli in experiments:
        cli.share_data(experiments[0], prompts)
    standings = [standing_of(cli) for cli in experiments]
    shows = record is not None and (experiments[0].wants_bar or table)
    with ExitStack() as stack:
        progress = stack.enter_context(closing(SweepProgress(standings, bar=shows, table=table)))
        outputs = [stack.enter_context(closing(open_output(cli))) for cli in experiments]
        messages = stack.enter_context(messages_by_experiment())
        ready = [
            ready_to_run(cli, record, messages, output)
            for cli, output in zip(experiments, outputs, strict=True)
        ]
        printing: list[Any] = []

        def begin(number: int) -> None:
            printing.append(redirect_stdout(outputs[number]))
            printing[-1].__enter__()

        def end(number: int) -> None:
            printing.pop().__exit__(None, None, None)
            progress.after_turn(number)

        with stopped_by_signals(experiments) as received:
            lanes = SideBySide(ready, before_turn=begin, after_turn=end).run()
        errors = [lane.error for lane in lanes]
        if not is_first_process():  # launchers treat a status above 0 as a failure of the process
            return 0
        for output, error in zip(outputs, errors, strict=True):
            if error is not None and not isinstance(error, SystemExit):
                output.write(indented("".join(traceback.format_exception(error))) + "\n")
    print("\n".join(map(one_line, final_table(standings))))
    tell(experiments, errors)
    return status_of(received, errors)


def ready_to_run(
    cli: ExperimentCLI, record: SweepRecord | None, messages: MessagesByExperiment, output: TextIO
) -> Prepared:
    """Returns an experiment whose status and messages are kept by the first process."""
    name, fit = cli.experiment.name, cli.carry_out
    fit = messages.of(name, output if record else None, fit)
    if record:
        fit = record.watched(name, fit)
    return Prepared(name=name, module=cli.model, fit=fit, random_states=cli.random_states)


def status_of(received: Sequence[int], errors: Sequence[BaseException | None]) -> int:
    """Returns the status of a sweep.

    Args:
        received: Numbers of the signals that this process has received.
        errors: What ended each experiment; another process may have received a signal.
    """
    if received:
        return 128 + received[0]
    stops = [int(error.code or 0) for error in errors if isinstance(error, SystemExit)]
    return max(stops, default=0) or (ERROR if any(errors) else 0)


def standing_of(cli: ExperimentCLI) -> Standing:
    """Returns how far an experiment is, for the progress and the table at the end."""
    evals = [x for x in cli.trainer.callbacks if isinstance(x, BenchmarkEval)]  # type: ignore[attr-defined]

    def accuracy() -> Accuracy:
        pairs = [(e, e.accuracy(last=False), e.accuracy(last=True)) for e in evals]
        names = [name for _, _, after in pairs for name in after]
        return {
            e.verdict if len(names) == 1 else name: (before.get(name), after[name])
            for e, before, after in pairs
            for name in after
        }

    return Standing(
        name=cli.experiment.name,
        module=cli.model,
        trainer=cli.trainer,
        accuracy=accuracy,
        folder=str(cli.run.folder),
    )


def tell(experiments: Sequence[ExperimentCLI], errors: Sequence[BaseException | None]) -> None:
    """Prints a line for each experiment that has not ended well: its folder, and the reason."""
    lines = []
    for cli, error in zip(experiments, errors, strict=True):
        if isinstance(error, SystemExit):
            lines.append(f"{cli.run.folder}: saved; the same command goes on with it")
        elif error is not None:
            reason = str(error).partition("\n")[0]
            told = f"failed ({type(error).__name__}: {reason}; see {OUTPUT})"
            lines.append(f"{cli.run.folder}: {told}")
    for line in lines[:MOST_LINES]:
        print(one_line(line))
    if len(lines) > MOST_LINES:
        print(f"... and {len(lines) - MOST_LINES} further experiments that were saved or failed")


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
            os._exit(128 + number)
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
