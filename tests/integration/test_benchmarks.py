"""The benchmarks that need no peer run, in small, and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = {
    "rollout": (["--prompts=2", "--new-tokens=4", "--prompt-tokens=20"], "ratio_generate"),
    "doubling": (["--prompts=2", "--group-size=2"], "rows"),
}


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.slow
def test_a_benchmark_runs_and_writes_its_result(name: str, root: Path, tmp_path: Path) -> None:
    words, key = SMALL[name]
    command = [sys.executable, str(root / f"benchmarks/{name}.py"), "--steps=1", "--threads=1"]
    command += [*words, f"--json={tmp_path}/{name}.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result[key]
    assert {"command", "commit", "machine", "versions"} <= set(result)


@pytest.mark.slow
def test_eight_bits_against_32(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/eight_bit.py"), "--steps=1", "--seeds=1"]
    command += [f"--json={tmp_path}/eight_bit.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "eight_bit.json").read_text())["runs"]
    assert [run["moments"] for run in runs] == [["uint8"], ["float32"]]
    assert (tmp_path / "eight_bit.png").stat().st_size > 10_000


def test_memory_of_one_setting(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/memory.py"), "--one", "--vocabulary=4096"]
    command += ["--rows=4", "--length=16", "--steps=1", "--threads=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seconds"] > 0


def test_our_side_of_a_step_takes_its_turns(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/step_worker.py"), "ours"]
    command += ["--model=quickstart", "--threads=1", "--prompts=4", "--group-size=4"]
    done = subprocess.run(
        [*command, "--new-tokens=32"], input="\n\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        step = json.loads(line)
        parts = step["rollout"] + step["reward"] + step["update"]
        assert step["step"] == pytest.approx(parts)
        assert 0 < step["limit"] < step["step"]
        assert step["tokens"] > 16
    assert len(done.stdout.splitlines()) == 2


def test_the_shares_of_the_claim_by_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import claim

    runs = [
        {"arm": claim.STEERING, "before": 0.2, "after": 0.8},
        {"arm": claim.STEERING, "before": 0.4, "after": 0.8},
        {"arm": claim.FULL, "before": 0.2, "after": 1.0},
        {"arm": claim.FULL, "before": 0.4, "after": 0.8},
    ]
    assert claim.gains(runs) == pytest.approx({claim.STEERING: 0.5, claim.FULL: 0.6})


@pytest.mark.slow
def test_the_claim_in_two_steps(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks/claim.py"), "--quick", "--steps=2"]
    command += ["--threads=1", "--jobs=2", f"--json={tmp_path}/claim.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "claim.json").read_text())
    arms = {run["arm"]: run for run in result["runs"]}
    assert len(arms) == 13
    assert arms["training-free vectors"]["trained"] == 0
    assert arms["steering vectors"]["trained"] == 4 * arms["layer 2 alone"]["trained"] == 4 * 192
    full = arms["full fine-tuning"]
    steered = arms["steering vectors"]
    gain, most = (x["after"] - x["before"] for x in (steered, full))
    assert result["recovered"] == (pytest.approx(gain / most) if most else None)
    assert (tmp_path / "claim.png").stat().st_size > 10_000
