"""Whatever comes in, chosen by what code it reaches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.conftest import Figure

FUZZER = """
import sys, tempfile
import atheris
with atheris.instrument_imports(include=["steer_lightning"]):
    from pathlib import Path
    from steer_lightning import ConfigError, load_vectors
    from steer_lightning.rewards.math import find_answer, last_boxed, plain_number
path = Path(tempfile.mkdtemp()) / "any.safetensors"

def answers(data):
    text = atheris.FuzzedDataProvider(data).ConsumeUnicode(len(data))
    for where in ("boxed", "boxed_or_last_number", "last_number"):
        found = find_answer(text, where)
        assert found is None or found in text
    plain_number(text)

def vectors(data):
    path.write_bytes(data)
    try:
        load_vectors(path)
    except ConfigError:
        pass

atheris.Setup(sys.argv[1:], {target})
atheris.Fuzz()
"""
RUNS = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("target", ["answers", "vectors"])
def test_coverage_guided_fuzzing(target: str, tmp_path: Path, figure: Figure) -> None:
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "answer").write_bytes(rb"so \boxed{\frac{1}{2}} is 1,234.5")
    good = {"format_version": "1", "site": "layer_output", "layers": "[0]", "num_layers": "2"}
    head = {"__metadata__": {**good, "width": "1"}}
    head |= {"vectors": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}
    text = json.dumps(head).encode()
    (corpus / "vectors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            FUZZER.replace("{target}", target),
            f"-atheris_runs={RUNS}",
            "-seed=1",
            "-max_len=2000",
            "-timeout=10",
            f"-artifact_prefix={tmp_path}/",
            str(corpus),
        ],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} " in done.stderr
    figure(f"atheris_{target}", RUNS)
