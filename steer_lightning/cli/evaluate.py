"""`evaluate`: benchmarks with and without vectors, several arms on one loaded model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from steer_lightning.cli.options import read_options
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.evaluation.results import as_text
from steer_lightning.system.collectives import rank
from steer_lightning.system.printable import one_line, printable

INTERRUPTED = 130


def run(words: Sequence[str]) -> None:
    """Runs `evaluate`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration.
    """
    options = read_options(
        words[1:],
        Evaluation,
        prog="steer-lightning evaluate",
        description="Answers benchmarks with a base model and with the base steered.",
    )
    evaluation = Evaluation(**options)
    with _processes():
        if rank() > 0:  # what all processes would say is said once
            logging.getLogger("steer_lightning").setLevel(logging.ERROR)
        try:
            results = evaluation.run()
        except KeyboardInterrupt:
            folder = evaluation.store.folder
            print(f"interrupted: the same command goes on from {one_line(folder)}", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if rank() == 0:
            _tell(evaluation, results)


@contextmanager
def _processes() -> Iterator[None]:
    """Connects the processes that torchrun has started; one alone needs nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from steer_lightning.strategy import HOURS, MINUTES
    from steer_lightning.system.collectives import first_tells, world_size
    from steer_lightning.system.peer_watch import PeerWatch, all_arrive

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend, host = "nccl" if torch.cuda.is_available() else "gloo", os.environ["MASTER_ADDR"]
    with all_arrive(MINUTES, host):
        dist.init_process_group(backend, timeout=timedelta(hours=HOURS))
        watch = PeerWatch(rank(), world_size(), host, first_tells)
    try:
        yield
    except BaseException as error:
        watch.leave(error)  # the others could only wait
        raise
    watch.leave()
    dist.destroy_process_group()


def _tell(evaluation: Evaluation, results: dict[str, Any]) -> None:
    """Prints the table and where everything is."""
    print(f"\n{printable(as_text(results['rows']))}\n")
    print("Shares in percent, with 95 % intervals by the bootstrap over problems.")
    store = evaluation.store
    print(f"figures:     {one_line(store.results)}")
    print(f"completions: {one_line(store.completions)}")
    from steer_lightning.results.report import draw_comparison, drawn

    print(f"picture:     {one_line(drawn(draw_comparison, store.folder))}")
