"""Fixtures that every test shares."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers reads it
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts from the same seeds, and leaves seeds.

    Threads and environment as they were.
    """
    environment, state, python_state = dict(os.environ), torch.get_rng_state(), random.getstate()
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_rng_state(state)
    random.setstate(python_state)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT
