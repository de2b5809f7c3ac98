"""Runs in a process that goes on after them, and the options of the trainer that are refused."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import warnings
from pathlib import Path

import pytest
from lightning import Trainer

from steer_lightning.cli import main
from steer_lightning.cli.fit import SteeringCLI
from steer_lightning.model.base import FrozenBase
from steer_lightning.system.printable import PrintableRecord
from steer_lightning.system.run_files import is_locked
from steer_lightning.training.trainer_options import CALLBACKS


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
            assert is_locked(folder), "it is still running"

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
    ("error", "status"), [(None, 0), (FloatingPointError("diverged"), 2), (KeyError("own"), 1)]
)
def test_a_command_leaves_python_as_it_was(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    status: int,
) -> None:
    """The folder that was there already stays, however the command ends."""
    found: list[tuple[object, list[str]]] = []

    def start(cli: SteeringCLI, name: str) -> None:
        found.append((logging.getLogRecordFactory(), list(sys.path)))
        if error is not None:
            raise error

    monkeypatch.setattr(SteeringCLI, "_run_subcommand", start)
    monkeypatch.chdir(tmp_path)
    words = ["validate", "--config", str(root / "configs/quickstart.yaml")]
    factory, path = logging.getLogRecordFactory(), list(sys.path)
    assert main(words) == status
    assert found == [(PrintableRecord, [*path, str(tmp_path)])]
    assert (logging.getLogRecordFactory(), sys.path) == (factory, path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = list(sys.path)
    main(words)
    assert found[1] == (PrintableRecord, path)
    assert sys.path == path


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--model.loss.init_args.klip=1", "model.loss.init_args.klip: steer_lightning.losses.Pol"),
        ("--model.loss.klip=1", "model.loss.klip: steer_lightning.losses.PolicyGradient has no"),
        ("--model.optimizer.init_args.lrr=1", "model.optimizer.init_args.lrr: torch.optim.AdamW"),
        (
            "--model.loss.init_args.objective=3",
            "model.loss.init_args.objective = '3': there is no O",
        ),
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


REFUSED = {
    "precision": "bf16-mixed",
    "limit_predict_batches": "3",
    "overfit_batches": "2",
    "accumulate_grad_batches": "2",
    "gradient_clip_val": "1.0",
    "gradient_clip_algorithm": "norm",
    "barebones": "true",
    "sync_batchnorm": "true",
    "reload_dataloaders_every_n_epochs": "1",
    "model_registry": "mine",
}
"""A value of each option that is refused."""


def rows(root: Path) -> dict[str, str]:
    """Options of the trainer in its docs, and whether they work here."""
    text = (root / "docs/reference/trainer.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` \| (works|refused) \| ", text, re.MULTILINE))


def test_every_option_of_the_trainer_is_in_its_docs(root: Path) -> None:
    options = {name for name in inspect.signature(Trainer.__init__).parameters if name != "self"}
    assert options <= set(rows(root)), "it needs a row, and a trial"
    assert {name for name, here in rows(root).items() if here == "refused"} == set(REFUSED)
    text = (root / "docs/reference/trainer.md").read_text()
    assert all(f"`{name}`" in text for name in CALLBACKS)


def refusal(words: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    """The message of `fit` with these words; the base is not loaded."""
    monkeypatch.setattr(FrozenBase, "_load_base", lambda self: pytest.fail("the base was loaded"))
    assert main(["fit", "--config", str(root / "configs/quickstart.yaml"), *words]) == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return str(output.err.strip().splitlines()[-1])


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_are_refused_are_refused_before_the_base_loads(
    option: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = [f"--trainer.{option}={REFUSED[option]}", f"--trainer.default_root_dir={tmp_path}"]
    told = refusal(words, root, monkeypatch, capsys)
    assert told.startswith(f"error: trainer.{option} = ")
    assert not list(tmp_path.iterdir())


def test_a_sampler_of_lightning_is_refused_with_several_processes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ["--trainer.use_distributed_sampler=true", f"--trainer.default_root_dir={tmp_path}"]
    told = refusal([*words, "--trainer.devices=2"], root, monkeypatch, capsys)
    assert told.startswith("error: trainer.use_distributed_sampler = True: must be false")


ARGUMENTS = {"GradientAccumulationScheduler": {"scheduling": {0: 2}}}
ARGUMENTS["StochasticWeightAveraging"] = {"swa_lrs": 0.1}


@pytest.mark.filterwarnings("ignore")  # jsonargparse's and torch's, about the callbacks
@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_that_are_refused(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    callbacks = __import__("lightning.pytorch.callbacks", fromlist=["x"])
    if not hasattr(callbacks, name):
        pytest.skip("this version of Lightning has none")
    callback = {
        "class_path": f"lightning.pytorch.callbacks.{name}",
        "init_args": ARGUMENTS.get(name, {}),
    }
    words = [f"--trainer.callbacks={[callback]}", f"--trainer.default_root_dir={tmp_path}"]
    told = refusal(words, root, monkeypatch, capsys)
    assert told.startswith(f"error: trainer.callbacks = '{name}': can't be used here")


def test_a_validation_needs_problems(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ["--trainer.val_check_interval=5", f"--trainer.default_root_dir={tmp_path}"]
    told = refusal(words, root, monkeypatch, capsys)
    assert told.startswith("error: trainer.val_check_interval = 5: needs data.val")
