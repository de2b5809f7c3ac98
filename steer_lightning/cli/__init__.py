"""The entry point of the command line; it imports only what the given command needs."""

from __future__ import annotations

import difflib
import errno
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from steer_lightning.cli.shipped import with_files
from steer_lightning.cli.yaml_files import check_yaml_files
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.import_noise import quiet_imports
from steer_lightning.system.printable import PrintableRecord, indented, one_line
from steer_lightning.system.showing import lines_above_bars


@dataclass(frozen=True)
class Command:
    """A command of `steer-lightning`.

    Attributes:
        module: Module whose function `run` runs the command. The function takes the words of the
            command line, starting with the command itself.
        help: Text about the command in `steer-lightning --help`.
        starts_at_once: Whether the module needs none of the libraries that take seconds to import.
    """

    module: str
    help: str
    starts_at_once: bool = False


COMMANDS = {
    "fit": Command("steer_lightning.cli.fit", "train steering vectors: fit --config my.yaml"),
    "sweep": Command(
        "steer_lightning.cli.sweep", "train many experiments side by side on one loaded base"
    ),
    "validate": Command(
        "steer_lightning.cli.fit", "measure accuracy on a configuration's validation problems"
    ),
    "test": Command("steer_lightning.cli.fit", "measure accuracy on its test problems"),
    "difference": Command(
        "steer_lightning.cli.difference",
        "make vectors without training (right minus wrong completions) from the YAML of fit",
    ),
    "evaluate": Command(
        "steer_lightning.cli.evaluate", "benchmarks with and without vectors, with intervals"
    ),
    "report": Command(
        "steer_lightning.cli.report",
        "write one HTML file about one or more runs: report RUN_FOLDER ...",
        starts_at_once=True,
    ),
    "lens": Command("steer_lightning.cli.lens", "show which tokens vectors push, and how far"),
    "play": Command(
        "steer_lightning.cli.play", "try vectors out on a page in the browser, beside the base"
    ),
    "serve": Command(
        "steer_lightning.cli.serve", "serve a base and vectors by the OpenAI API on this machine"
    ),
    "export": Command(
        "steer_lightning.cli.export", "export vectors to transformers, PEFT, llama.cpp and vLLM"
    ),
    "vectors": Command(
        "steer_lightning.cli.vectors", "vector files: info, scale, add, average, slice, transplant"
    ),
    "configs": Command(
        "steer_lightning.cli.configs",
        "list the configurations of the package, or copy one: configs copy NAME",
    ),
    "init": Command("steer_lightning.cli.init", "write a small starter project: init my-project"),
    "doctor": Command(
        "steer_lightning.cli.doctor", "check versions, devices, memory and extras, and train a step"
    ),
    "completion": Command(
        "steer_lightning.cli.completion", "print a completion script for bash, zsh or fish"
    ),
}

OTHER_NAMES = {
    **dict.fromkeys(("train", "run", "learn", "start", "resume", "finetune", "rl"), "fit"),
    **dict.fromkeys(("benchmark", "bench", "score", "eval", "predict"), "evaluate"),
    **dict.fromkeys(("look", "inspect", "show"), "lens"),
    **dict.fromkeys(("convert", "save", "merge"), "export"),
}
"""Names that other programs use for these commands."""

ERROR, USAGE_ERROR, INTERRUPTED = 1, 2, 130
"""Exit statuses; the last one is for a command that Ctrl-C has ended, as in a shell."""


def help_text() -> str:
    """Returns the text of `steer-lightning --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: steer-lightning COMMAND [options]",
            "",
            "Trains steering vectors of a frozen language model by reinforcement learning.",
            "",
            "commands:",
            *lines,
            "",
            "steer-lightning COMMAND --help  lists a command's options",
            "steer-lightning --version       prints the version",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Words of the command line; by default those of this process.

    Returns:
        Exit status: 0 for success; 2 for a mistake that the user can fix, reported in one message;
        130 after Ctrl-C; 1 for any other error, with its traceback.
    """
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(PrintableRecord)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # user code may raise anything, and quote text that a model wrote
        print(indented(traceback.format_exc().rstrip()), file=sys.stderr)
        return ERROR
    finally:
        logging.setLogRecordFactory(before)


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"steer-lightning {version('steer-lightning')}")
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        return _complain(f"there is no command {words[0]!r}: {_meant(words[0])}")
    from steer_lightning.cli.first_look import look_at  # `--help` needs no parser

    try:
        _refuse_settings_before_files(words[1:])
        words = with_files(words)
        check_yaml_files(words[1:])
        with quiet_imports(), _own_modules(), lines_above_bars():
            look_at(words)
            if not command.starts_at_once:
                _tell_of_the_start(words[0], command.module)
            _imported(command.module).run(words)
    except (ConfigError, FloatingPointError) as error:  # a diverged run also gets one message
        return _complain(str(error), error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        what = "open" if error.errno == errno.EACCES else "write"
        where = f" {error.filename}" if error.filename else ""
        told = f"can't {what}{where}: {error.strerror}. Files saved earlier are complete"
        return _complain(told, error)
    return 0


def _meant(word: str) -> str:
    """Says what somebody may have meant by a word that is not a command."""
    if word.endswith((".yaml", ".yml")):
        return f"did you mean steer-lightning fit --config {word}?"
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = OTHER_NAMES.get(word) or next(iter(close), None)
    return f"did you mean {meant!r}?" if meant else f"the commands are {', '.join(COMMANDS)}"


def _refuse_settings_before_files(words: Sequence[str]) -> None:
    """Keeps a file from silently overriding a setting that precedes it on the command line.

    Raises:
        ConfigError: If a `--config` comes after a setting.
    """
    names = [word.split("=", 1)[0] for word in words]
    files = [place for place, name in enumerate(names) if name in ("--config", "-c")]
    for place, name in enumerate(names):
        is_setting = name.startswith("--") and name not in ("--config", "--help", "--print_config")
        if files and is_setting and place < files[-1]:
            raise ConfigError(
                name,
                UNKNOWN,
                rule="must come after the last --config",
                why="Later words override earlier ones, so the file's values would replace it",
            )


def _tell_of_the_start(name: str, module: str) -> None:
    """Tells a user at a terminal that the command has begun, before seconds of imports."""
    if module not in sys.modules and sys.stderr.isatty():
        print(f"steer-lightning {one_line(name)}: loading PyTorch ...", file=sys.stderr, flush=True)


def _imported(module: str) -> ModuleType:
    """Imports a command's module without collecting garbage, which takes a fifth of a start's time.

    An import makes hundreds of thousands of objects that all stay, and each collection in between
    would examine them again. They are kept out of later collections, too.
    """
    if module in sys.modules or not gc.isenabled():
        return import_module(module)
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _own_modules() -> Iterator[None]:
    """Lets modules of the current folder be imported, such as a user's rewards and callbacks."""
    # the folder comes after the installed packages, so that a file such as `datasets.py` in it does
    # not hide one of them
    folder = os.getcwd()
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new and folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def interruptible(told: str) -> Iterator[None]:
    """Ends the process with one sentence and status 130 if Ctrl-C interrupts the block.

    Args:
        told: Sentence that says what has been saved of the work.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {one_line(told)}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _complain(message: str, error: Exception | None = None) -> int:
    if error is not None and os.environ.get("STEER_LIGHTNING_DEBUG"):
        raise error
    print(f"error: {indented(message)}", file=sys.stderr)
    return USAGE_ERROR
