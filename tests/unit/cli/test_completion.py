"""Scripts of completion: what they hold, and what bash and fish make of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from steer_lightning.cli import COMMANDS, main
from steer_lightning.cli.completion import SHELLS, Words, as_text, bash, fish, words_of, zsh
from steer_lightning.cli.shipped import configurations
from steer_lightning.cli.vectors import VERBS

WORDS = {
    "fit": Words(["config", "trainer.max_steps", "trainer.max_time"]),
    "vectors": Words(["factor", "files"], ["info", "scale", "slice"]),
    "configs": Words(["name"], ["copy"]),
}
TYPED = {
    "f": ["fit"],
    "": ["configs", "fit", "vectors"],
    "fit --trainer.max_": ["--trainer.max_steps", "--trainer.max_time"],
    "fit --fac": [],
    "fit --config quicks": ["quickstart"],
    "fit --config ./my": ["./my.yaml"],
    "vectors s": ["scale", "slice"],
    "vectors scale s": [],
    "vectors scale --fac": ["--factor"],
    "configs copy quicks": ["quickstart"],
}


def test_options_are_those_of_the_help() -> None:
    found = {name: words_of(name) for name in ("report", "vectors", "configs", "completion")}
    assert set(found["report"].options) == {
        *("config", "help", "num_prompts", "num_steps", "output", "overwrite", "run"),
    }
    assert found["vectors"].verbs == list(VERBS)
    assert {"files", "factor", "weights", "layers", "private"} < set(found["vectors"].options)
    assert found["configs"] == Words(["config", "help", "name", "path"], ["copy"])
    assert found["completion"] == Words(["config", "help", "shell"], list(SHELLS))


def test_sweep_takes_its_own_options_and_those_of_fit() -> None:
    found = words_of("sweep").options
    own = {"grid", "experiments", "each-layer", "each_layer", "dry_run", "table"}
    assert set(found) == own | set(words_of("fit").options)


def test_the_command_prints_a_script_with_all_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "bash"]) == 0
    told = capsys.readouterr().out
    assert told == f"{as_text('bash')}\n"
    (line,) = [line for line in told.splitlines() if line.startswith("      fit\\ *\\ -*)")]
    assert {"--config", "--model.base", "--trainer.max_steps"} < set(line.split())
    assert all(f"      {name}\\ *\\ -*)" in told for name in COMMANDS)
    assert main(["completion", "tcsh"]) == 2
    assert "must be one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err


def asked(shell: str, script: str, folder: Path) -> str:
    """What a shell prints."""
    done = subprocess.run(
        [shell, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    script = [bash(WORDS)]
    for typed in TYPED:
        words = ["steer-lightning", *typed.split(" ")]
        shown = " ".join(f"'{word}'" for word in words)
        script.append(f"COMP_WORDS=({shown}); COMP_CWORD={len(words) - 1}; COMPREPLY=()")
        script.append('_steer_lightning; echo "${COMPREPLY[*]}"')
    lines = asked("bash", "\n".join(script), tmp_path).splitlines()
    found = {typed: sorted(line.split()) for typed, line in zip(TYPED, lines, strict=True)}
    assert found == TYPED


def test_bash_takes_an_equals_sign_for_a_word(tmp_path: Path) -> None:
    script = f"{bash(WORDS)}\nCOMP_WORDS=(steer-lightning fit --config '=' gsm8k/q); COMP_CWORD=4"
    script += '\n_steer_lightning; echo "${COMPREPLY[*]}"'
    assert asked("bash", script, tmp_path) == "gsm8k/qwen2.5-1.5b\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize("typed", TYPED)
def test_fish_completes(typed: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    script = f"{fish(WORDS)}\ncomplete -C 'steer-lightning {typed}'"
    lines = asked("fish", script, tmp_path).splitlines()
    assert sorted(line.split("\t")[0] for line in lines) == TYPED[typed]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_its_script(tmp_path: Path) -> None:
    assert asked("zsh", f"compdef() {{ echo $* }}\n{zsh(WORDS)}", tmp_path) == (
        "_steer-lightning steer-lightning\n"
    )


def test_every_script_names_the_configurations() -> None:
    for script in (bash(WORDS), zsh(WORDS), fish(WORDS)):
        assert " ".join(configurations()) in script
        assert "NAMES" not in script
        assert "CASES" not in script
