"""An export is whole or absent, and overwrites nothing unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError, export_vectors, save_vectors
from steer_lightning.results.export import job
from steer_lightning.steering import AdaptiveVectors, SteeringVectors
from tests.unit.results.export.helpers import make_vectors, save_base


def test_vectors_of_another_place_are_refused(tmp_path: Path) -> None:
    for kind in (SteeringVectors(tokens="prompt"), AdaptiveVectors()):
        path = tmp_path / "vectors.safetensors"
        save_vectors(kind.shaped(192, 4), path, base_model="quickstart")
        with pytest.raises(ConfigError, match="must be SteeringVectors at the output of layers"):
            export_vectors(path, to="peft", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked_and_nothing_half_made_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    make_vectors(tmp_path / "v.safetensors", base)
    options = {"to": "easysteer", "output": tmp_path / "out", "verify": False}
    (tmp_path / "out").mkdir()  # an empty folder is free
    export_vectors(tmp_path / "v.safetensors", **options)
    first = (tmp_path / "out/steering.json").read_bytes()
    with pytest.raises(ConfigError, match="set --overwrite"):
        export_vectors(tmp_path / "v.safetensors", **options)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_readme", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_vectors(tmp_path / "v.safetensors", **options, overwrite=True)
    assert (tmp_path / "out/steering.json").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "v.safetensors"]
    export_vectors(tmp_path / "v.safetensors", **options, overwrite=True, scale=2.0)
    assert (tmp_path / "out/steering.json").read_bytes() != first
    assert json.loads((tmp_path / "out/export.json").read_text())["scale"] == 2.0
    with pytest.raises(ConfigError, match="holds no export, so it is not overwritten"):
        export_vectors(
            tmp_path / "v.safetensors", to="gguf", output=tmp_path / "base", overwrite=True
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "v.safetensors"]
