"""The command that does arithmetic on files of vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import load_vectors, save_vectors
from steer_lightning.cli import main
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import summed
from steer_lightning.testing import save_tiny
from tests.unit.steering.helpers import A, B, make_vectors, rows_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, found in (("a", A), ("b", B)):
        save_vectors(make_vectors(found), f"{name}.safetensors", base_model="base", step=9)
    return tmp_path


def test_every_verb_on_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = "a.safetensors", "b.safetensors", "o.safetensors"

    def run(*words: str) -> dict[int, list[float]]:
        assert main(["vectors", *words, "--output", out, "--overwrite"]) == 0
        return rows_of(load_vectors(out))

    assert run("scale", a, "--factor", "3") == {0: [3.0, 6.0], 2: [9.0, -12.0]}
    assert load_vectors(out).metadata["step"] == "9"
    assert run("add", a, b) == rows_of(summed([make_vectors(A), make_vectors(B)]))
    assert run("add", a, b, a, "--weights", "[1, 0, 1]")[2] == [6.0, -8.0]
    assert run("average", a, b)[2] == [6.5, -2.0]
    assert run("slice", b, "--layers", "3") == {3: [0.5, 0.5]}
    assert run("slice", b, "--layers", "[2, 3]") == B
    assert run("slice", b, "--layers", "2-3") == B
    capsys.readouterr()
    assert main(["vectors", "info", a, b]) == 0
    told = capsys.readouterr().out
    assert "layers    2 of 4, width 2: 4 numbers" in told
    assert "added     after each layer (layer_output), format version 1\n" in told
    norms = [line.split() for line in told.splitlines() if line.strip()[:1].isdigit()]
    assert norms[1] == ["2", "5", "3.536", "4"]  # (3, -4): norm 5, root mean square 5 / sqrt(2)


def test_info_says_where_vectors_act(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = SteeringVectors(site="input_norm", tokens="prompt").shaped(2, 4)
    vectors.save(folder / "c.safetensors", base_model="base")
    assert main(["vectors", "info", "c.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "added     in each layer (input_norm), only for prompt tokens, format version 2" in told


def test_quantise_counts_the_bits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["vectors", "quantise", "a.safetensors", "--bits=1", "--output=q.safetensors"]
    assert main(words) == 0
    told = capsys.readouterr().out.splitlines()
    # layers (1, 2) and (3, -4): means 1.5 and 3.5; header 116, scales 2 * 32, values 2 * 2
    assert rows_of(load_vectors("q.safetensors")) == {0: [1.5, 1.5], 2: [3.5, -3.5]}
    assert "quantised 184 bits in all, 1 for each number that is kept; share kept 1.0" in told
    # squared errors 0.5 and 0.5, against 5 + 25: sqrt(1 / 30)
    assert told[-2:] == [
        "bits      header 116, mask 0, scales 64, values 4",
        "error     18.3 % of the norm of the vectors",
    ]
    metadata = load_vectors("q.safetensors").metadata
    assert metadata["description_bits"] == "184"
    assert (metadata["base_model"], metadata["step"]) == ("base", "9")
    assert main(["vectors", "info", "q.safetensors"]) == 0
    assert "quantised 184 bits" in capsys.readouterr().out
    words = ["vectors", "scale", "q.safetensors", "--factor=2", "--output=s.safetensors"]
    assert main(words) == 0
    assert "quantised" not in capsys.readouterr().out
    assert "description_bits" not in load_vectors("s.safetensors").metadata
    zeros = make_vectors({1: [0.0, 0.0]})
    save_vectors(zeros, "z.safetensors", base_model="base")
    assert main(["vectors", "quantise", "z.safetensors", "--bits=4", "--output=y"]) == 0
    assert "error     0 %" in capsys.readouterr().out


def test_the_bits_of_the_base_survive_arithmetic(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = make_vectors(A)
    vectors.base_bits = 4
    vectors.save(folder / "c.safetensors", base_model="base")
    out = ["--output", "o.safetensors"]
    assert main(["vectors", "scale", "c.safetensors", "--factor", "2", *out]) == 0
    assert load_vectors("o.safetensors").metadata["base_bits"] == "4"
    assert "base      base, in 4 bits\n" in capsys.readouterr().out
    assert "base_bits" not in load_vectors("a.safetensors").metadata


def test_a_sum_of_vectors_of_two_bases_names_neither_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_vectors(make_vectors(A), folder / "m.safetensors", base_model="org/m")
    save_vectors(make_vectors(B), folder / "n.safetensors", base_model="org/n")
    assert main(["vectors", "add", "m.safetensors", "n.safetensors", "--output=o"]) == 0
    assert not load_vectors("o").metadata.get("base_model")
    assert "these files were trained on org/m and org/n; the new file names no base" in caplog.text


def test_transplant_reads_the_other_models_configuration(folder: Path) -> None:
    base = save_tiny(folder / "other", "qwen2", layers=4, width=32)
    vectors = torch.ones(2, 32)
    save_vectors(vectors, "v.safetensors", base_model="base", layers=[1, 3], num_layers=4)
    words = ["vectors", "transplant", "v.safetensors", "--base", base, "--output", "t.safetensors"]
    assert main(words) == 0
    found = load_vectors("t.safetensors")
    assert found.metadata["base_model"] == base
    assert torch.equal(found.vectors, vectors)


def test_transplant_to_another_depth(folder: Path) -> None:
    base = save_tiny(folder / "deep", "qwen2", layers=5, width=32)
    rows = torch.arange(4.0)[:, None].expand(4, 32) + 1
    save_vectors(rows, "v.safetensors", base_model="base")
    words = ["vectors", "transplant", "v.safetensors", "--base", base, "--output", "t.safetensors"]
    assert main(words) == 2
    assert main([*words, "--map=0,1,2,-,3"]) == 0
    found = load_vectors("t.safetensors")
    assert (found.layers, found.num_layers) == ((0, 1, 2, 4), 5)
    assert found.vectors[:, 0].tolist() == [1, 2, 3, 4]
    assert main([*words, "--overwrite", "--map=-,0,1,2,2"]) == 0
    assert {k: v[0] for k, v in rows_of(load_vectors("t.safetensors")).items()} == {
        1: 1.0,
        2: 2.0,
        3: 3.0,
        4: 3.0,
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["avrage", "a.safetensors"], "Did you mean average"),
        (["info", "no.safetensors"], "vectors = 'no.safetensors': there is no such file"),
        (["info"], "must be set"),
        (["scale", "a.safetensors", "b.safetensors", "--factor=1", "--output=o"], "must be one"),
        (["add", "a.safetensors", "--output=o"], "must be at least two files"),
        (["scale", "a.safetensors", "--factor=1", "--output=b.safetensors"], "set --overwrite"),
        (["scale", "a.safetensors", "--factr=1", "--output=o"], "Did you mean factor"),
        (["quantise", "a.safetensors", "--bits=20", "--output=o"], "must be from 1 to 16, or 32"),
        (
            ["quantise", "a.safetensors", "--bits=4", "--keep=0", "--output=o"],
            "keep = 0.0: must",
        ),
        (["transplant", "a.safetensors", "--base=./x", "--output=o"], "base = './x': there is no"),
        (["transplant", "a.safetensors", "--base=quickstart", "--output=o"], "has width 192"),
        (["push", ".", "--to=user/name"], "is not the folder of a run"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    words: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["vectors", *words]) == 2
    assert told in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_help_of_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vectors"]) == 0
    told = capsys.readouterr().out
    for verb in ("info", "scale", "add", "average", "slice", "quantise", "transplant", "push"):
        assert f"  {verb} " in told
    with pytest.raises(SystemExit) as stopped:
        main(["vectors", "slice", "--help"])
    assert stopped.value.code == 0
    assert "--layers" in capsys.readouterr().out
