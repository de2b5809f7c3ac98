"""A finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import made_up_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_up_run.make_run(tmp_path / "runs/run-1")
