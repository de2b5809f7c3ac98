"""Messages name the command that installs an extra, and leave an editable install editable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from steer_lightning.system.extras import install_command


def installed(folder: Path, origin: dict[str, object] | None) -> None:
    """Writes what pip leaves of an install."""
    facts = folder / "steer_lightning-9.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: steer-lightning\nVersion: 9.0\n")
    if origin is not None:
        (facts / "direct_url.json").write_text(json.dumps(origin))


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (None, 'pip install "steer-lightning[export]"'),
        (
            {"url": "file:///my/clone", "dir_info": {}},
            'pip install "steer-lightning[export]"',
        ),
        (
            {"url": "file:///my%20own/clone", "dir_info": {"editable": True}},
            'pip install -e "/my own/clone[export]"',
        ),
    ],
)
def test_an_extra_is_added_as_the_package_was_installed(
    origin: dict[str, object] | None, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(tmp_path, origin)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert install_command("export") == told


def test_without_an_install_the_name_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert install_command("lora") == 'pip install "steer-lightning[lora]"'
