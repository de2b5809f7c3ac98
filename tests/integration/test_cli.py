"""The thin command line, every YAML of the repository, and the wheel in a foreign folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from steer_lightning import save_vectors
from steer_lightning.cli import COMMANDS, Command, main
from steer_lightning.strategy import SteeringStrategy

FOLDER = Path(__file__).parents[2] / "configs"
EVERY = sorted(FOLDER.rglob("*.yaml"))
EVALUATIONS = [path for path in EVERY if path.parent.name == "evaluate"]
OTHERS = {"evaluate", "lens", "paper"}  # test_paper_configs.py has the parts of configs/paper
CONFIGS = [path for path in EVERY if not OTHERS & set(path.relative_to(FOLDER).parts)]


def test_help_lists_the_commands_without_importing_torch() -> None:
    script = (
        "import sys; from steer_lightning.cli import main; code = main(['--help']); "
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ft"], "did you mean 'fit'?"),
        (["xyzzy"], "fit, validate, test"),
        (["fit", "--nope"], "nope"),
        (["train"], "did you mean 'fit'?"),
        (["benchmark"], "did you mean 'evaluate'?"),
        (["q.yaml"], "did you mean steer-lightning fit --config q.yaml?"),
        (["fit", "q.yaml"], "q.yaml: is a file, and no option names it. Write --config q.yaml."),
        (["evaluate", "q.yml"], "q.yml: is a file, and no option names it. Write --config q.yml."),
        (["fit", "--config", "none.yaml"], "none.yaml': there is no such file."),
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
    told = "error: --trainer.max_steps: must stand behind the last --config. What comes later"
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
    if config.parent.name == "distributed":
        assert isinstance(built["cli"].trainer.strategy, SteeringStrategy)
    if not base:
        assert "default_root_dir" in yaml.safe_load(config.read_text())["trainer"]


def test_print_config_is_a_config(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(root / "configs/quickstart.yaml"), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["optimizer"]["init_args"]["eps"] == 1e-8  # defaults are filled in


def test_a_wheel_runs_in_a_foreign_folder(root: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = (
        tmp_path / "source"
    )  # a copy: a build folder in the repository would hide deleted files
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(root / name, source)
    shutil.copytree(root / "steer_lightning", source / "steer_lightning")
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("steer_lightning-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "steer_lightning/py.typed" in names
    assert "steer_lightning/assets/quickstart/model.safetensors" in names
    for name in ("template.html", "report.css", "main.js", "vendor/d3.min.js", "vendor/LICENSES"):
        assert f"steer_lightning/results/report/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "callbacks/", "configs/"))]
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for command in ([str(site / "bin/steer-lightning")], [sys.executable, "-m", "steer_lightning"]):
        done = subprocess.run(
            [*command, "--help"],
            cwd=foreign,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "steer-lightning COMMAND" in done.stdout
    where = "import steer_lightning.model.hub as p; print(p.resolve_base('quickstart'))"
    done = subprocess.run(
        [sys.executable, "-c", where],
        cwd=foreign,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(site / "steer_lightning/assets/quickstart")
