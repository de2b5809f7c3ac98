"""Whatever is trained: a run goes on exactly, and two processes are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer_lightning.callbacks.checkpoint_file import load_checkpoint

pytestmark = pytest.mark.slow
KINDS: dict[str, dict[str, Any]] = {
    "AdaptiveVectors": {"tokens": "completion", "site": "mlp_output"},
    "LoRA": {"rank": 2},
    "READ": {"rank": 3},
    "TinyLoRA": {"u": 3, "weight_tying": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_exactly_and_two_processes_are_one(
    config, run, tmp_path: Path, kind: str
) -> None:
    path = f"steer_lightning.steering.{kind}"
    config["model"]["steering"] = {"class_path": path, "init_args": KINDS[kind]}
    config["trainer"].update(callbacks=[], max_steps=4)
    done = run(config)
    assert done.returncode == 0, done.stderr
    assert run(config, "--trainer.max_steps=2", "--ckpt_path=new").returncode == 0
    saved = tmp_path / "runs/run-2/checkpoints/last.ckpt"
    done = run(config, f"--ckpt_path={saved}")
    assert done.returncode == 0, done.stderr
    done = run(config, "--trainer.devices=2", "--ckpt_path=new")
    assert done.returncode == 0, done.stderr
    whole, _, went_on, two = (
        load_checkpoint(tmp_path / f"runs/run-{k}/checkpoints/last.ckpt")["state_dict"]
        for k in (1, 2, 3, 4)
    )
    trained = [name for name in whole if name.startswith("policy.steering.")]
    assert len(trained) > 2
    for name in trained:
        assert torch.equal(went_on[name], whole[name]), name
        torch.testing.assert_close(two[name], whole[name], rtol=1e-3, atol=1e-4)
    if kind == "READ":  # its hooks work beside those of a sharded base
        done = run(config, "--trainer.devices=2", "--trainer.strategy=fsdp2", "--ckpt_path=new")
        assert done.returncode == 0, done.stderr
        sharded = load_checkpoint(tmp_path / "runs/run-5/checkpoints/last.ckpt")["state_dict"]
        for name in trained:
            torch.testing.assert_close(sharded[name], whole[name], rtol=1e-3, atol=1e-4)
    if kind == "LoRA":
        done = run(config, "--trainer.devices=2", "--trainer.strategy=fsdp2", "--ckpt_path=new")
        assert done.returncode == 2  # before there is a second process
        assert done.stderr.count("model.steering = 'LoRA': can't be trained with") == 1
