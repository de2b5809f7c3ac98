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

import numpy as np
import torch

from steer_lightning.training.resume import get_random_states, set_random_states

ROOT = Path(__file__).parent.parent

# Fixtures of a module are made before `_restored` runs. Sums differ with the number of threads.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts from the same seeds, and leaves seeds, threads and environment as found."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    states = get_random_states()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    torch.set_num_threads(1)
    yield
    set_random_states(states)
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT
