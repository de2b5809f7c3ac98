"""Arithmetic on vectors, by hand, and the command that does it on files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError, load_vectors, save_vectors
from steer_lightning.cli import main
from steer_lightning.steering import AdaptiveVectors, SteeringVectors
from steer_lightning.steering.arithmetic import (
    averaged,
    plain_vectors,
    scaled,
    sliced,
    summed,
    transplanted,
)
from steer_lightning.testing import save_tiny


def make(rows: dict[int, list[float]], num_layers: int = 4, **facts: str) -> SteeringVectors:
    facts = {"base_model": "b", "step": "9", **facts}
    numbers = torch.tensor([rows[layer] for layer in sorted(rows)])
    return plain_vectors(numbers, sorted(rows), num_layers, facts)


def rows(vectors: SteeringVectors) -> dict[int, list[float]]:
    return dict(zip(vectors.layers, vectors.vectors.tolist(), strict=True))


A = {0: [1.0, 2.0], 2: [3.0, -4.0]}
B = {2: [10.0, 0.0], 3: [0.5, 0.5]}


def test_by_hand() -> None:
    a, b = make(A), make(B)
    assert rows(scaled(a, -0.5)) == {0: [-0.5, -1.0], 2: [-1.5, 2.0]}
    assert rows(summed([a, b])) == {0: [1.0, 2.0], 2: [13.0, -4.0], 3: [0.5, 0.5]}
    assert rows(summed([a, b], [2.0, -1.0]))[2] == [-4.0, -8.0]
    assert rows(averaged([a, b])) == {0: [0.5, 1.0], 2: [6.5, -2.0], 3: [0.25, 0.25]}
    assert rows(averaged([a, a, a, a])) == A
    assert rows(sliced(a, "2")) == {2: [3.0, -4.0]}
    assert rows(sliced(a, [2, 0])) == A
    assert rows(transplanted(a, "c", 4, 2)) == A
    assert rows(a) == A, "nothing is changed in place"


def test_places_follow_and_do_not_mix() -> None:
    a = make(A)
    elsewhere = plain_vectors(a.vectors, a.layers, 4, site="mlp_output", tokens="prompt")
    for made in (scaled(elsewhere, 2.0), sliced(elsewhere, "2"), summed([elsewhere, elsewhere])):
        assert (made.site, made.tokens) == ("mlp_output", "prompt")
    with pytest.raises(ConfigError, match=r"mlp_output for prompt tokens.*layer_output for all"):
        summed([a, elsewhere])
    gated = AdaptiveVectors([0, 2]).shaped(2, 4)
    with pytest.raises(ConfigError, match=r"AdaptiveVectors.*gates"):
        scaled(gated, 2.0)


def test_metadata_follows() -> None:
    a, b = make(A), make(B)
    assert scaled(a, 2.0).metadata == a.metadata
    assert sliced(a, "2").metadata["step"] == "9"
    assert summed([a, b]).metadata == {"base_model": "b"}, "a sum was trained for no steps"
    moved = transplanted(a, "org/other", 4, 2, "abc").metadata
    assert moved == {"base_model": "org/other", "revision": "abc", "step": "9"}
    assert a.metadata == {"base_model": "b", "step": "9"}
    assert not summed([a, b]).weight.requires_grad


def test_units_are_multiplied_out() -> None:
    vectors = SteeringVectors([1]).shaped(2, 4)
    vectors.set_unit(torch.tensor([8.0]))
    vectors.weight.data[:, :2] = torch.tensor([[1.0, 0.5]])
    assert rows(scaled(vectors, 2.0)) == {1: [16.0, 8.0]}


def test_what_does_not_fit_is_refused() -> None:
    a = make(A)
    with pytest.raises(ConfigError, match=r"file 2.*is of 5 decoder layers and width 2, the first"):
        summed([a, make(B, num_layers=5)])
    with pytest.raises(ConfigError, match="must be 2, one for each file"):
        summed([a, a], [1.0])
    with pytest.raises(ConfigError, match=r"layers 1 have no vector\. The file steers 0, 2"):
        sliced(a, "0-2")
    with pytest.raises(ConfigError, match=r"layers = 'x': must be"):
        sliced(a, "x")
    with pytest.raises(ConfigError, match=r"width 3, these vectors are of width 2.*trained on b"):
        transplanted(a, "c", 4, 3)
    with pytest.raises(ConfigError, match=r"6 decoder layers, these vectors are of 4.*depth"):
        transplanted(a, "c", 6, 2)
    for factor in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be finite"):
            scaled(a, factor)
    with pytest.raises(ConfigError, match="the result must be finite"):
        scaled(a, 1e38 * 10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, found in (("a", A), ("b", B)):
        save_vectors(make(found), f"{name}.safetensors", base_model="base", step=9)
    return tmp_path


def test_every_verb_on_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = "a.safetensors", "b.safetensors", "o.safetensors"

    def run(*words: str) -> dict[int, list[float]]:
        assert main(["vectors", *words, "--output", out, "--overwrite"]) == 0
        return rows(load_vectors(out))

    assert run("scale", a, "--factor", "3") == {0: [3.0, 6.0], 2: [9.0, -12.0]}
    assert load_vectors(out).metadata["step"] == "9"
    assert run("add", a, b) == rows(summed([make(A), make(B)]))
    assert run("add", a, b, a, "--weights", "[1, 0, 1]")[2] == [6.0, -8.0]
    assert run("average", a, b)[2] == [6.5, -2.0]
    assert run("slice", b, "--layers", "3") == {3: [0.5, 0.5]}
    assert run("slice", b, "--layers", "[2, 3]") == B
    assert run("slice", b, "--layers", "2-3") == B
    capsys.readouterr()
    assert main(["vectors", "info", a, b]) == 0
    told = capsys.readouterr().out
    assert "layers    2 of 4, width 2: 4 numbers" in told
    assert "added     behind each layer (layer_output), format version 1\n" in told
    norms = [line.split() for line in told.splitlines() if line.strip()[:1].isdigit()]
    assert norms[1] == ["2", "5", "3.536", "4"]  # (3, -4): norm 5, root mean square 5 / sqrt(2)


def test_info_says_where_vectors_act(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = SteeringVectors(site="input_norm", tokens="prompt").shaped(2, 4)
    vectors.save(folder / "c.safetensors", base_model="base")
    assert main(["vectors", "info", "c.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "added     in each layer (input_norm), for prompt tokens alone, format version 2" in told


def test_transplant_reads_the_other_models_configuration(folder: Path) -> None:
    base = save_tiny(folder / "other", "qwen2", layers=4, width=32)
    vectors = torch.ones(2, 32)
    save_vectors(vectors, "v.safetensors", base_model="base", layers=[1, 3], num_layers=4)
    words = ["vectors", "transplant", "v.safetensors", "--base", base, "--output", "t.safetensors"]
    assert main(words) == 0
    found = load_vectors("t.safetensors")
    assert found.metadata["base_model"] == base
    assert torch.equal(found.vectors, vectors)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["avrage", "a.safetensors"], "Did you mean average"),
        (["info", "no.safetensors"], "vectors = 'no.safetensors': there is no such file"),
        (["info"], "must be set"),
        (["scale", "a.safetensors", "b.safetensors", "--factor=1", "--output=o"], "must be one"),
        (["add", "a.safetensors", "--output=o"], "must be two files or more"),
        (["scale", "a.safetensors", "--factor=1", "--output=b.safetensors"], "give --overwrite"),
        (["scale", "a.safetensors", "--factr=1", "--output=o"], "Did you mean factor"),
        (["transplant", "a.safetensors", "--base=./x", "--output=o"], "base = './x': there is no"),
        (["transplant", "a.safetensors", "--base=quickstart", "--output=o"], "has width 192"),
        (["push", ".", "--to=user/name"], "is no run's folder"),
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
    for verb in ("info", "scale", "add", "average", "slice", "transplant", "push"):
        assert f"  {verb} " in told
    with pytest.raises(SystemExit) as stopped:
        main(["vectors", "slice", "--help"])
    assert stopped.value.code == 0
    assert "--layers" in capsys.readouterr().out
