"""Memory of a sweep is that of its process and of all processes that it has started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = (
    "import time; held = bytearray(b'x') * 50_000_000; print('ready', flush=True); time.sleep(60)"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_what_a_process_has_started(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import sweep

    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            found = sweep.proportional_memory(process.pid)
        finally:
            subprocess.run(["pkill", "-P", str(process.pid)], check=False)
            process.kill()
    assert 50_000_000 / 2**20 < found < 100


@pytest.mark.slow
def test_a_round_of_one_step(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/sweep.py"), "--rounds=1", "--steps=1"]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    words = [*command, f"--json={tmp_path}/sweep.json"]
    subprocess.run(words, check=True, timeout=600, env=environment)
    assert not list((tmp_path / "temporary").glob("*/common.yaml")), "it leaves no folder behind"
    result = json.loads((tmp_path / "sweep.json").read_text())
    (only,) = result["rounds"]
    assert result["experiments"] == len(only["fit_seconds"]) == 8
    assert result["ratio_time"] == only["ratio_time"] > 0
    assert result["ratio_memory"] == only["ratio_memory"] > 0
