"""A run never overwrites what another one has left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from steer_lightning import ConfigError
from steer_lightning.callbacks.run_folder import claim


def test_nothing_of_an_earlier_run_is_overwritten(tmp_path: Path) -> None:
    trainer = SimpleNamespace(default_root_dir=str(tmp_path))
    path = claim(trainer, "summary.json")  # type: ignore[arg-type]
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"summary\.json of an earlier run"):
        claim(trainer, "summary.json")  # type: ignore[arg-type]
