"""`steer-lightning difference` on a tiny model, and what its file is good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from steer_lightning import load_vectors
from steer_lightning.cli import main

FEW = ("--num_prompts=12", "--num_held_out=8")


def command(config: dict[str, Any], folder: Path, *words: str, name: str = "difference") -> int:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return main([name, "--config", str(folder / "config.yaml"), *words])


@pytest.fixture
def verified(config: dict[str, Any]) -> dict[str, Any]:
    """The same letters are what counts as right."""
    config["model"]["verifier"] = config["model"]["rewards"][0]["reward"]
    config["trainer"]["callbacks"] = []
    return config


def test_the_file_is_one_of_ordinary_vectors(
    verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*FEW, "--scales", "0.5", "2")
    assert command(verified, tmp_path, *words) == 0
    folder = tmp_path / "runs/difference"
    shown = capsys.readouterr().out
    facts = json.loads((folder / "difference.json").read_text())
    assert f"{facts['num_contrasts']} of 12 prompts have better and worse" in shown
    assert facts["num_completions"] == 48
    assert [row["scale"] for row in facts["scales"]] == [0, 0.5, 2]
    best = max(row["accuracy"] for row in facts["scales"])
    (chosen,) = (row for row in facts["scales"] if row["scale"] == facts["scale"])
    assert chosen["accuracy"] == best
    vectors = load_vectors(folder / "steering_vectors.safetensors")
    assert vectors.metadata["format_version"] == "1"
    assert vectors.metadata["base_model"] == verified["model"]["base"]
    norms = vectors.vectors.norm(dim=1)
    sizes = norms / (torch.tensor([row["stream_rms"] for row in facts["layers"]]) * 32**0.5)
    assert sizes.mean().item() == pytest.approx(facts["scale"], rel=1e-5), "the scale is folded in"
    raw = torch.tensor([row["norm_of_difference"] for row in facts["layers"]])
    if facts["scale"]:
        torch.testing.assert_close(norms / norms[0], raw / raw[0])
    again = ("--output", str(tmp_path / "again"), "--trainer.accelerator=auto")
    assert command(verified, tmp_path, *words, *again) == 0
    assert json.loads((tmp_path / "again/difference.json").read_text()) == facts
    assert command(verified, tmp_path, *words) == 2
    assert "already contains steering_vectors.safetensors" in capsys.readouterr().err
    assert command(verified, tmp_path, *words, "--overwrite", "--seed_everything=1") == 0
    assert json.loads((folder / "difference.json").read_text()) != facts


def test_a_run_starts_from_the_file(verified: dict[str, Any], tmp_path: Path) -> None:
    verified["trainer"]["max_steps"] = 1
    verified["model"]["optimizer"]["init_args"]["lr"] = 0.0
    assert command(verified, tmp_path, *FEW, "--scales", "0.3") == 0
    start = tmp_path / "runs/difference/steering_vectors.safetensors"
    facts = json.loads((start.parent / "difference.json").read_text())
    given = f"--model.steering.init_from={start}"
    assert command(verified, tmp_path, given, name="fit") == 0
    run = tmp_path / "runs/run-1"
    ended = load_vectors(run / "steering_vectors.safetensors")
    torch.testing.assert_close(ended.vectors, load_vectors(start).vectors)
    # a run's own configuration serves as well, less what the difference starts from
    words = [*FEW, "--scales", "0.3", "--model.steering.init_from=null"]
    words += [f"--output={tmp_path / 'third'}"]
    assert main(["difference", "--config", str(run / "config.yaml"), *words]) == 0
    assert json.loads((tmp_path / "third/difference.json").read_text()) == facts


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--num_prompts=15", "--num_held_out=6"), "= 15: together with num_held_out = 6 is more"),
    (("--num_tokens=0",), "num_tokens = 0: must be at least 1"),
    (("--num_prompts=0",), "num_prompts = 0: must be at least 1"),
    (("--scales=[.inf]",), "scales = [inf]: must be finite"),
    (("--trainer.accelerator=tpu",), "trainer.accelerator = 'tpu': this machine has no such"),
    (("--model.steering=steer_lightning.steering.LowRankVectors",), "must be SteeringVectors"),
    (
        ("--model.sampling.group_size=1", "--model.advantage=steer_lightning.advantages.Reinforce"),
        "model.sampling.group_size = 1: must be at least 2",
    ),
    (("--nope=1",), "nope = '1': there is no such option"),
    (("--model.sampling.max_new_tokens=999",), "model.sampling.max_new_tokens = 999"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=lambda value: str(value)[:30])
def test_mistakes_are_told_before_the_model_is_loaded(
    words: tuple[str, ...],
    told: str,
    verified: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steer_lightning.model.policy import Policy

    monkeypatch.setattr(Policy, "load", lambda policy: pytest.fail("loaded"))
    assert command(verified, tmp_path, *FEW, *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs/difference").exists()


def test_nothing_is_ever_right(
    verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verified["model"]["rewards"][0]["reward"]["init_args"]["pattern"] = "^nothing writes this$"
    assert command(verified, tmp_path, *FEW) == 2
    told = capsys.readouterr().err
    assert "rewards = 'mean 0': none of 12 prompts has both better and worse" in told
    assert "Of 48 completions 0 have no score" in told
