"""Prompts that several data modules with the same settings have in common."""

from __future__ import annotations

import logging
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from steer_lightning.types import Prompt

BySplit = dict[str, list[Prompt]]
"""Prompts of each split."""


class SharedPrompts:
    """Makes prompts once for all data modules with the same settings.

    A source that draws from a global random generator could give each module other problems, so
    prompts whose making changes its state are made anew for each.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[BySplit, list[logging.LogRecord]]] = {}

    def fill(self, key: str, prompts: BySplit, load: Callable[[], None]) -> None:
        """Puts prompts into a module's own, and repeats the messages of their making.

        Args:
            key: Settings on which the prompts depend, as text.
            prompts: Prompts of the module by split, which are changed in place.
            load: Function that makes the prompts, and puts them there.
        """
        if key in self._made:
            found, messages = self._made[key]
            prompts.update(found)
            for message in messages:
                logging.getLogger(message.name).handle(message)
            return
        before = _random_states()
        with _recorded() as messages:
            load()
        if _random_states() == before:
            self._made[key] = dict(prompts), messages


def _random_states() -> list[Any]:
    """Returns the states of the global random generators of Python, numpy and torch."""
    numpy_state = pickle.dumps(np.random.get_state())
    return [random.getstate(), numpy_state, bytes(torch.get_rng_state().numpy())]


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


@contextmanager
def _recorded() -> Iterator[list[logging.LogRecord]]:
    """Yields a list to which the messages of this package are appended within the block."""
    handler = _Recorder()
    logger = logging.getLogger("steer_lightning")
    logger.addHandler(handler)
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
