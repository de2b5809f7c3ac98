"""Runs in a process that goes on after them."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from steer_lightning.cli import main
from steer_lightning.cli.fit import SteeringCLI
from steer_lightning.system.run_files import is_locked


def test_a_run_within_a_run_does_not_see_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", str(root / "configs/quickstart.yaml")]
    folders: list[Path] = []

    def start(cli: SteeringCLI, name: str) -> None:
        folder = Path(cli.trainer.default_root_dir)
        folders.append(folder)
        if len(folders) == 1:
            assert main([*words, f"--trainer.default_root_dir={tmp_path / 'inner'}"]) == 0
            assert main([*words, "--nope"]) == 2
            assert is_locked(folder), "it is still under way"

    monkeypatch.setattr(SteeringCLI, "_run_subcommand", start)
    assert main([*words, f"--trainer.default_root_dir={tmp_path / 'outer'}"]) == 0
    assert folders == [tmp_path / "outer/run-1", tmp_path / "inner/run-1"]
    assert not any(folder.exists() for folder in folders), "nothing came of either"


@pytest.mark.parametrize(("rank", "own_level"), [("0", logging.NOTSET), ("1", logging.ERROR)])
def test_what_a_run_withholds_is_told_again_behind_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, rank: str, own_level: int
) -> None:
    names = ("lightning.pytorch", "lightning.fabric", "steer_lightning")
    found: list[list[int]] = []

    def levels() -> list[int]:
        return [logging.getLogger(name).level for name in names]

    def start(cli: SteeringCLI, name: str) -> None:
        found.append(levels())
        warnings.warn("Using ModelCheckpoint with manual optimization", UserWarning, stacklevel=1)

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(SteeringCLI, "_run_subcommand", start)
    before, filters = levels(), list(warnings.filters)
    for words in ([], ["--nope"]):
        main(["validate", "--config", str(root / "configs/quickstart.yaml"), *words])
        assert levels() == before
        assert warnings.filters == filters
    assert found == [[logging.WARNING, logging.WARNING, own_level]]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--model.loss.init_args.klip=1", "model.loss.init_args.klip: steer_lightning.losses.Pol"),
        ("--model.loss.klip=1", "model.loss.klip: steer_lightning.losses.PolicyGradient has no"),
        ("--model.optimizer.init_args.lrr=1", "model.optimizer.init_args.lrr: torch.optim.AdamW"),
        ("--model.loss.init_args.objective=3", "model.loss.init_args.objective = '3': must be"),
        ("--model.loss.init_args.objective.low=3", "model.loss.objective: must be a steer_light"),
        ("--config={tmp}/own.yaml", "model.loss.init_args.klip: steer_lightning.losses.PolicyGrad"),
    ],
)
def test_a_mistyped_key_is_named_as_it_was_typed(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], word: str, told: str
) -> None:
    loss = "{class_path: steer_lightning.losses.PolicyGradient, init_args: {klip: 1}}"
    (tmp_path / "own.yaml").write_text(f"model: {{loss: {loss}}}")
    words = ["fit", "--config", str(root / "configs/quickstart.yaml"), word.format(tmp=tmp_path)]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")
