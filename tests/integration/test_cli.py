"""The thin command line, every YAML of the repository, and the wheel in a foreign folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from scripts.first_hour import build_wheel
from steer_lightning import save_vectors
from steer_lightning.cli import COMMANDS, Command, main
from steer_lightning.strategy import SteeringStrategy

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs"
EVERY = sorted(FOLDER.rglob("*.yaml"))
EVALUATIONS = [path for path in EVERY if path.parent.name == "evaluate"]
SWEEPS = [path for path in EVERY if path.parent.name == "sweep"]
OTHERS = {
    "difference",
    "evaluate",
    "lens",
    "paper",
    "sweep",
}  # test_paper_configs.py has the parts of configs/paper
CONFIGS = [path for path in EVERY if not OTHERS & set(path.relative_to(FOLDER).parts)]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_lists_of_experiments_are_those_of_a_sweep(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "quickstart", "--experiments", f"sweep/{path.stem}", "--dry_run"]
    assert main(["sweep", *words, f"--trainer.default_root_dir={tmp_path}"]) == 0
    told = {"rates-and-seeds": "lr=0.08_seed_everything=1", "quickstart-layers": "all-layers"}
    assert capsys.readouterr().out.splitlines()[-1] == told[path.stem]


def test_what_needs_no_torch_does_not_import_it(tmp_path: Path) -> None:
    """The list of the commands, the version, names of configurations, a new project."""
    every = [[], ["--help"], ["--version"], ["configs"], ["configs", "copy", "quickstart"]]
    every += [["init", "mine"], ["fit", "--config", "quickstrat"]]
    script = (
        f"import sys; from steer_lightning.cli import main; codes = list(map(main, {every})); "
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules); "
        "sys.exit(codes != [0, 0, 0, 0, 0, 0, 2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [done.stdout.count(f"\n  {name} ") for name in COMMANDS] == [2] * len(COMMANDS)
    assert "Did you mean quickstart" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ft"], "did you mean 'fit'?"),
        (["xyzzy"], "fit, sweep, validate, test"),
        (["fit", "--nope"], "nope"),
        (["train"], "did you mean 'fit'?"),
        (["benchmark"], "did you mean 'evaluate'?"),
        (["q.yaml"], "did you mean steer-lightning fit --config q.yaml?"),
        (["fit", "q.yaml"], "q.yaml: is a file, but no option names it. Write --config q.yaml."),
        (["evaluate", "q.yml"], "q.yml: is a file, but no option names it. Write --config q.yml."),
        (
            ["fit", "--config", "none.yaml"],
            "none.yaml': there is no such file, and no configuration",
        ),
    ],
)
def test_unknown_words(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--trainer.max_steps=2", "--config=configs/quickstart.yaml"],
        ["fit", "--config", "a.yaml", "--trainer.max_steps", "2", "--config", "b.yaml"],
        ["validate", "--trainer.max_steps", "2", "-c", "a.yaml"],
    ],
)
def test_a_setting_that_a_file_would_replace_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = "error: --trainer.max_steps: must come after the last --config. Later words"
    assert told in capsys.readouterr().err


def test_a_broken_yaml_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("model: [1\ndata: 2")
    assert main(["fit", "--config", str(tmp_path / "bad.yaml")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert main(["fit", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("is_terminal", "at_once", "told"),
    [
        (True, False, "steer-lightning mine: loading PyTorch ...\ninterrupted\n"),
        (True, True, "interrupted\n"),
        (False, False, "interrupted\n"),
    ],
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(
    is_terminal: bool,
    at_once: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cut_short.py").write_text("raise KeyboardInterrupt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(COMMANDS, "mine", Command("cut_short", "", starts_at_once=at_once))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert main(["mine"]) == 130
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("config", EVALUATIONS, ids=lambda path: path.stem)
def test_every_yaml_of_an_evaluation_is_one(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from steer_lightning.evaluation.job import Evaluation

    built: list[Evaluation] = []

    def run(evaluation: Evaluation) -> None:
        built.append(evaluation)
        sys.exit(0)

    monkeypatch.setattr(Evaluation, "run", run)
    vectors = tmp_path / "v.safetensors"
    save_vectors(torch.zeros(4, 192), vectors, base_model="quickstart")
    with pytest.raises(SystemExit):
        main(["evaluate", "--config", str(config), f"--vectors={vectors}"])
    assert built[0].base == "quickstart"
    assert built[0].policy.model is None


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_parses_and_its_objects_can_be_built(
    config: Path, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from steer_lightning.cli import fit

    built = {}
    monkeypatch.setattr(fit.SteeringCLI, "_run_subcommand", lambda cli, name: built.update(cli=cli))
    monkeypatch.chdir(root)
    bases = {"distributed": "gsm8k/qwen2.5-1.5b.yaml", "algorithms": "quickstart.yaml"}
    base = bases.get(config.parent.name)  # to which it is an addition
    words = [
        "fit",
        *(["--config", str(root / "configs" / base)] if base else []),
        "--config",
        str(config),
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.accelerator=cpu",
    ]
    assert main(words) == 0
    module = built["cli"].model
    assert module.policy.model is None, "nothing is loaded before all settings have been checked"
    if config.parent.name == "distributed" and config.stem != "vllm":  # one process of ours
        assert isinstance(built["cli"].trainer.strategy, SteeringStrategy)
    if not base:
        assert "default_root_dir" in yaml.safe_load(config.read_text())["trainer"]


def test_print_config_is_a_config(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(root / "configs/quickstart.yaml"), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["optimizer"]["init_args"]["eps"] == 1e-8  # defaults are filled in


def test_print_config_spells_out_the_default_optimizer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def printed(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
        return capsys.readouterr().out

    first = printed("--data.train", "Arithmetic")
    optimizer = yaml.safe_load(first)["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    settings = optimizer["init_args"]
    assert (settings["lr"], settings["weight_decay"]) == (0.1, 0.0)
    assert settings["betas"] == [0.9, 0.999]
    (tmp_path / "printed.yaml").write_text(first)
    assert printed("--config", str(tmp_path / "printed.yaml")) == first
    other = printed("--data.train", "Arithmetic", "--model.optimizer", "AdamW")
    of_torch = yaml.safe_load(other)["model"]["optimizer"]["init_args"]
    assert of_torch["weight_decay"] == 0.01, "settings of the default are not mixed with another's"


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, as a release builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = build_wheel(folder / "built")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


def check_contents(site: Path) -> None:
    """Nothing that a command needs is missing, and nothing lies beside the package."""
    package = site / "steer_lightning"
    assert (package / "py.typed").exists()
    assert (package / "assets/quickstart/model.safetensors").exists()
    for name in ("template.html", "report.css", "main.js", "vendor/d3.min.js", "vendor/LICENSES"):
        assert (package / "results/report" / name).exists()
    for name in ("configs", "project"):
        for file in (file for file in (ROOT / name).rglob("*") if file.is_file()):
            if "__pycache__" not in file.parts:
                copied = package / name / file.relative_to(ROOT / name)
                assert copied.read_bytes() == file.read_bytes()
    beside = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert beside == {"bin", "steer_lightning"}


def test_a_wheel_runs_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    check_contents(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    command = str(site / "bin/steer-lightning")
    assert "steer-lightning COMMAND" in run(sys.executable, "-m", "steer_lightning")
    assert run(command, "--version") == f"steer-lightning {version('steer-lightning')}\n"
    assert len(run(command, "configs").splitlines()) == len(EVERY) + 1  # and slurm.sh
    run(command, "configs", "copy", "quickstart")
    assert (tmp_path / "quickstart.yaml").read_bytes() == (FOLDER / "quickstart.yaml").read_bytes()
    run(command, "init", "mine")
    assert (tmp_path / "mine/my_rewards.py").exists()
    said = run(command, "fit", "--config", "quickstart", "--trainer.max_steps=2")
    assert re.search(r"accuracy on arithmetic: [\d.]+% before, [\d.]+% after", said)
    folder = tmp_path / "runs/quickstart/run-1"
    assert (folder / "report.html").exists()
    where = "import steer_lightning.model.hub as p; print(p.resolve_base('quickstart'))"
    shown = run(sys.executable, "-c", where).strip()
    assert shown == str(site / "steer_lightning/assets/quickstart")
