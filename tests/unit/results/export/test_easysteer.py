"""EasySteer's wire form, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from steer_lightning import export_vectors
from tests.unit.results.export.helpers import make_vectors, save_base


def test_easysteer_gets_its_own_wire_form(tmp_path: Path) -> None:

    base = save_base(tmp_path / "base", "olmo2")
    vectors = make_vectors(tmp_path / "v.safetensors", base, layers=(0, 2)).numpy()
    export_vectors(tmp_path / "v.safetensors", to="easysteer", output=tmp_path / "out")
    spec = json.loads((tmp_path / "out/steering.json").read_text())
    (vector,) = spec.pop("vectors")
    data = vector.pop("data")
    assert spec == {}
    assert vector == {
        "algorithm": "direct",
        "scale": 1.0,
        "layers": [0, 2],
        "normalize": False,
        "apply": {"prompt": "all", "generation": "all"},
    }
    digest = hashlib.sha256(
        b"direction:1" + b"layer.0(32,)" + vectors[0].tobytes() + b"layer.2(32,)"
        + vectors[1].tobytes()
    )  # fmt: skip
    assert data == {
        "version": 1,
        "kind": "direction",
        "tensors": {
            f"layer.{layer}": {
                "shape": [32],
                "data": base64.b64encode(row.tobytes()).decode(),
            }
            for layer, row in zip((0, 2), vectors, strict=True)
        },
        "extra": {},
        "sha256": digest.hexdigest(),
    }
