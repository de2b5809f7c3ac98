"""`evaluate`: benchmarks with and without vectors, several arms on one loaded model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.evaluation.results import as_text
from steer_lightning.messages import explain, explain_refusal
from steer_lightning.processes import rank
from steer_lightning.yaml_size import check_yaml_size

INTERRUPTED = 130


def run(words: Sequence[str]) -> None:
    """Runs `evaluate`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration.
    """
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word.startswith("--config"):
            check_yaml_size(word.partition("=")[2] or following)
    evaluation = Evaluation(**_parsed(words[1:]))
    with _processes():
        if rank() > 0:  # what all processes would say is said once
            logging.getLogger("steer_lightning").setLevel(logging.ERROR)
        try:
            results = evaluation.run()
        except KeyboardInterrupt:
            folder = evaluation.store.folder
            print(f"interrupted: the same command goes on from {folder}", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if rank() == 0:
            _tell(evaluation, results)


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of `Evaluation`."""
    parser = ArgumentParser(
        prog="steer-lightning evaluate",
        description="Answers benchmarks with a base model and with the base steered.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the options.")
    parser.add_class_arguments(Evaluation)
    options = [x.lstrip("-") for action in parser._actions for x in action.option_strings]
    try:
        given = parser.parse_args(_switched_on(words))
        made: Namespace = parser.instantiate_classes(given)
    except ArgumentError as error:
        raise explain(str(error), options) from error
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        link: BaseException | None = error
        while link is not None and not isinstance(link, ConfigError):
            link = link.__cause__ or link.__context__
        raise (link or explain_refusal(str(error))) from error
    return {key: value for key, value in vars(made).items() if key != "config"}


SWITCHES = ("--overwrite", "--rescore", "--trust_remote_code")


def _switched_on(words: Sequence[str]) -> list[str]:
    """`--overwrite` alone means true; jsonargparse wants the value."""
    following = [*words[1:], ""]
    return [
        f"{word}=true" if word in SWITCHES and after not in ("true", "false") else word
        for word, after in zip(words, following, strict=True)
    ]


@contextmanager
def _processes() -> Iterator[None]:
    """Connects the processes that torchrun has started; one alone needs nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _tell(evaluation: Evaluation, results: dict[str, Any]) -> None:
    """Prints the table and where everything is."""
    print(f"\n{as_text(results['rows'])}\n")
    print("Shares in percent, with 95 % intervals by the bootstrap over problems.")
    store = evaluation.store
    print(f"figures:     {store.results}")
    print(f"completions: {store.completions}")
    from steer_lightning.report import draw_comparison

    try:
        path = draw_comparison(store.folder)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print('picture:     not drawn: pip install "steer-lightning[report]" for matplotlib')
    else:
        print(f"picture:     {path}")
