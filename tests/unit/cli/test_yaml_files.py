"""A YAML file that holds no settings is refused with its name and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.cli.yaml_files import check_yaml_files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no settings. The file is empty."),
        (b"# a comment\n", "holds no settings"),
        (
            b"model:\n\tbase: x",
            "line 2, column 1: a tab is used where YAML allows only spaces. Indent",
        ),
        (
            b"\n\njust text",
            'line 3: holds text instead of settings. Settings are lines such as "seed',
        ),
        (b"- a\n- b", "line 1: holds a list instead of settings"),
        (b"model: [1\ndata: 2", "is not valid YAML: line 2, column 5: expected ',' or ']'"),
        (b"a: b: c", "is not valid YAML: line 1, column 5: mapping values are not allowed"),
        (b"a: \xff\xc2", "is not UTF-8 text: byte 4 can't be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_line(
    content: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_bytes(content)
    for words in (["--config", "my.yaml"], ["-c", "my.yaml"], ["--x=1", "--data=my.yaml"]):
        with pytest.raises(ConfigError) as caught:
            check_yaml_files(words)
        option = words[-1].split("=")[0] if "=" in words[-1] else words[0]
        assert str(caught.value).startswith(f"{option} = 'my.yaml': {told}")


def test_a_folder_is_no_file_and_other_words_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("data.jsonl").write_text("\t")
    Path("good.yaml").write_text("model:\n  base: quickstart\n")
    with pytest.raises(ConfigError, match="--config = 'runs': is a folder"):
        check_yaml_files(["--config=runs"])
    check_yaml_files(["--config", "good.yaml", "--output", "runs", "--data.train.path=data.jsonl"])
    check_yaml_files(["--config", "none.yaml", "--config"])
    check_yaml_files([])
    deep = "[" * 2000 + os.linesep
    Path("deep.yaml").write_text(deep)
    with pytest.raises(ConfigError, match=r"deep\.yaml': is (nested too deeply|no YAML)"):
        check_yaml_files(["--config", "deep.yaml"])
