"""Figures for the page on reliability, and a look at the processes that a test leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steer_lightning.rewards.pool import marked
from tests.integration.conftest import config, run, tiny_base  # noqa: F401  # fixtures
from tests.reliability.pool_family import descendants, descriptors

Figure = Callable[[str, int], None]


@pytest.fixture
def figure() -> Figure:
    """Keeps a number under a name, where STEER_LIGHTNING_FIGURES names a folder for them."""
    folder = os.environ.get("STEER_LIGHTNING_FIGURES")

    def keep(name: str, value: int) -> None:
        if folder is not None:
            (Path(folder) / f"{name}.json").write_text(json.dumps(value))

    return keep


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No process and no descriptor may be left behind, but those of tests before."""
    mark = f"{os.getpid()}-"
    pools, processes, files = set(marked(mark)), descendants(os.getpid()), descriptors()
    yield
    assert set(marked(mark)) <= pools
    assert descendants(os.getpid()) <= processes
    assert descriptors() <= files
