"""Processes that train different things, without processes."""

from __future__ import annotations

from typing import Any

import pytest

from steer_lightning import ConfigError
from steer_lightning.training import checks


def test_the_process_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[dict[str, Any]] = [{"data.order": [1], "seed_everything": 0}]
    monkeypatch.setattr(checks, "gather_objects", lambda own: [own, *others])
    checks.check_same_everywhere({"data.order": (1,), "seed_everything": 0})
    others.append({"data.order": [1], "seed_everything": 7})
    with pytest.raises(ConfigError) as caught:
        checks.check_same_everywhere({"data.order": (1,), "seed_everything": 0})
    assert str(caught.value) == (
        "seed_everything = 0: process 2 has 7. All processes must train the same vectors on the "
        "same data. Bring the same files to every node."
    )
