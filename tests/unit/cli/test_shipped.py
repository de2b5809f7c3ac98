"""Names of configurations that come with the package, and which file they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.cli import main, shipped
from steer_lightning.cli.shipped import configurations, shipped_folder, with_files

ROOT = Path(__file__).parents[3]
QUICKSTART = str(ROOT / "configs/quickstart.yaml")


def test_every_configuration_has_the_name_of_its_place() -> None:
    found = configurations()
    assert found["quickstart"] == ROOT / "configs/quickstart.yaml"
    assert found["gsm8k/qwen2.5-1.5b"] == ROOT / "configs/gsm8k/qwen2.5-1.5b.yaml"
    assert found["distributed/slurm.sh"] == ROOT / "configs/distributed/slurm.sh"
    assert set(found.values()) == {x for x in (ROOT / "configs").rglob("*") if x.is_file()}


def test_in_a_wheel_the_files_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "package")
    assert shipped_folder("configs") == tmp_path / "configs"
    (tmp_path / "package/configs/mine").mkdir(parents=True)
    (tmp_path / "package/configs/mine/a.yaml").touch()
    assert shipped_folder("configs") == tmp_path / "package/configs"
    assert list(configurations()) == ["mine/a"]


def test_a_name_is_replaced_by_the_path_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # no file: the name is meant
    words = ["fit", "--config", "quickstart", "--config=quickstart", "-c", "quickstart", "--x=y"]
    assert with_files(words) == [
        *("fit", "--config", QUICKSTART, f"--config={QUICKSTART}", "-c", QUICKSTART, "--x=y"),
    ]
    others = ["fit", "--model.base", "quickstart", "--model.base=quickstart", "quickstart"]
    assert with_files(others) == others, "only behind --config is it a configuration"


def test_a_local_file_of_the_very_words_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "quickstart.yaml").touch()
    assert with_files(["--config", "quickstart"]) == ["--config", QUICKSTART]
    words = ["--config", "quickstart.yaml", "--config=~/quickstart.yaml"]
    assert with_files(words) == words
    (tmp_path / "quickstart").touch()
    assert with_files(["--config", "quickstart"]) == ["--config", "quickstart"]


@pytest.mark.parametrize("text", ["-", "model: {base: quickstart}", "{}", "a:\n  b: 1"])
def test_texts_and_standard_input_are_left_to_the_parser(text: str) -> None:
    assert with_files(["fit", f"--config={text}"]) == ["fit", f"--config={text}"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quickstrat", "Did you mean quickstart"),
        ("configs/gsm8k/qwen2.5-1.5b.yaml", r"Did you mean gsm8k/qwen2\.5-1\.5b\?"),
        ("xyzzy", "`steer-lightning configs` lists them"),
        ("x" * 5000, "there is no such file, and no configuration of this name"),
    ],
)
def test_what_is_neither_file_nor_name_is_refused(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told) as caught:
        with_files(["fit", "--config", name])
    assert caught.value.key == "--config"
    assert main(["evaluate", "--config", name]) == 2
