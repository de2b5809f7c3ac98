"""The command that lists and copies the configurations of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from steer_lightning.cli import main
from steer_lightning.cli.shipped import configurations

FILES = configurations()


def test_each_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FILES)
    (line,) = [line for line in lines if line.startswith("quickstart ")]
    first = (FILES["quickstart"]).read_text().splitlines()[0]
    assert line.split(maxsplit=1)[1] == first.removeprefix("# ")
    assert {line.index(line.split(maxsplit=1)[1]) for line in lines} == {
        len(max(FILES, key=len)) + 2
    }


@pytest.mark.parametrize("name", FILES)
def test_the_first_line_of_a_file_is_a_sentence(name: str) -> None:
    head = [line for line in FILES[name].read_text().splitlines() if not line.startswith("#!")]
    assert re.fullmatch(r"# [A-Z].{10,97}\.", head[0])


@pytest.mark.parametrize("name", FILES)
def test_commands_in_comments_work_in_any_folder(name: str) -> None:
    """They name configurations, and no path of a clone."""
    text = FILES[name].read_text()
    assert "configs/" not in text
    known = set(re.findall(r"--(?:config|experiments) (\S+)", text))
    assert known <= set(FILES)
    if "steer-lightning" in text and name != "distributed/slurm.sh":
        assert name in known


def test_a_copy_is_to_the_byte_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs", "copy", "gsm8k/qwen2.5-1.5b"]) == 0
    assert capsys.readouterr().out == "qwen2.5-1.5b.yaml is written; edit it as you like\n"
    copied = tmp_path / "qwen2.5-1.5b.yaml"
    assert copied.read_bytes() == FILES["gsm8k/qwen2.5-1.5b"].read_bytes()
    copied.write_text("mine")
    assert main(["configs", "copy", "gsm8k/qwen2.5-1.5b"]) == 2
    assert "qwen2.5-1.5b.yaml': already exists" in capsys.readouterr().err
    assert copied.read_text() == "mine"
    (tmp_path / "folder").mkdir()
    assert main(["configs", "copy", "quickstart", "folder"]) == 0
    assert main(["configs", "copy", "quickstart", "new/my.yaml"]) == 0
    assert main(["configs", "copy", "distributed/slurm.sh", "--path=job.sh"]) == 0
    files = sorted(x.relative_to(tmp_path).as_posix() for x in tmp_path.rglob("*") if x.is_file())
    assert files == ["folder/quickstart.yaml", "job.sh", "new/my.yaml", "qwen2.5-1.5b.yaml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list"], "configs copy NAME [PATH]"),
        (["copy"], "name = None: must be set"),
        (["copy", "quickstrat"], "configs copy = 'quickstrat': no configuration of this name"),
        (["copy", "quickstart", "a", "b"], "'quickstart a b': takes only a name and a path"),
        (["copy", "quickstart", "--paht=a"], "Did you mean path"),
    ],
)
def test_mistakes_are_told(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_a_name_is_good_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--help"]) == 0
    assert "fit --config quickstart" in capsys.readouterr().out


def test_svamp_is_evaluated_with_the_prompt_of_the_training() -> None:
    trained = yaml.safe_load(FILES["svamp/smollm2-135m-cpu"].read_text())
    evaluated = yaml.safe_load(FILES["evaluate/svamp-smollm2"].read_text())
    assert evaluated["template"] == trained["data"]["template"]
    assert evaluated["max_prompt_tokens"] == trained["data"]["max_prompt_tokens"]
    for key in ("max_new_tokens", "stop_strings", "temperature"):
        assert evaluated["sampling"][key] == trained["model"]["sampling"][key]
    held_out, train = (trained["data"][part]["init_args"] for part in ("val", "train"))
    assert held_out["skip"] == train["limit"]
