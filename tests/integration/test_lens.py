"""`steer-lightning lens` on a tiny model, of which every answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning import attach
from steer_lightning.cli import main
from steer_lightning.steering import AdaptiveVectors, LoRA, load_vectors, save_vectors

LAYERS, WIDTH = 3, 32
ESCAPE, PLUS = 218, 13  # tokens of the byte tokenizer


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Vectors that are rows of the unembedding: of layer 0 and of layer 2, in a run's folder."""
    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    rows = model.get_output_embeddings().weight.detach()[[ESCAPE, PLUS]]
    for name, factor in (("run-1", 10.0), ("run-2", -20.0)):
        path = tmp_path / name / "steering_vectors.safetensors"
        facts = {"base_model": tiny_base, "layers": [0, 2], "num_layers": LAYERS, "step": 5}
        save_vectors(rows * factor, path, **facts)
    lora = LoRA(rank=1, target_modules=["down_proj"])
    lora.build(model)
    lora.save(tmp_path / "run-4/lora_adapter", base_model=tiny_base)
    return tmp_path


def test_the_lens_returns_the_token_whose_row_it_is_given(
    folder: Path, capsys: pytest.CaptureFixture[str], tiny_base: str
) -> None:
    assert main(["lens", "--vectors", "run-1", "--num_tokens=3", "--texts", "1+1=", "a"]) == 0
    shown = capsys.readouterr().out
    assert 'top tokens by cosine\n0  "\\x1b"' in shown
    assert '\n2  "+"' in shown
    assert "\x1b" not in shown
    assert "mean over 2 prompts" in shown
    assert (folder / "run-1/lens/lens.png").stat().st_size > 5000
    found = json.loads((folder / "run-1/lens/lens.json").read_text())
    assert set(found) == {
        *("base_model", "step", "width", "num_layers", "final_norm", "layers", "cosines"),
        *("singular_values", "stable_rank", "first_token", "site", "tokens", "inside"),
    }
    assert (found["base_model"], found["step"], found["num_layers"]) == (tiny_base, 5, LAYERS)
    assert [layer["layer"] for layer in found["layers"]] == [0, 2]
    for layer, token in zip(found["layers"], ("\x1b", "+"), strict=True):
        assert layer["top"]["cosine"][0] == [token, pytest.approx(1, abs=1e-5)]
        assert len(layer["bottom"]["dot"]) == 3
        size = layer["stream_rms"] * WIDTH**0.5
        assert layer["norm_over_stream"] == pytest.approx(layer["norm"] / size, rel=1e-4)
    assert [one["prompt"] for one in found["first_token"]["prompts"]] == ["1+1=", "a"]
    assert found["first_token"]["kl"] > 0


def test_what_comes_behind_the_vectors(
    folder: Path, capsys: pytest.CaptureFixture[str], tiny_base: str
) -> None:
    words = ["lens", "--vectors", "run-1", "--inside", "--texts", "1+1=2"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "in the next attention and the next MLP (4 tokens of 1 text)" in shown
    assert "inside:  run-1/lens/inside.png" in shown
    assert (folder / "run-1/lens/inside.png").stat().st_size > 5000
    found = json.loads((folder / "run-1/lens/lens.json").read_text())["inside"]
    assert [row["layer"] for row in found["alone"]] == [0, 2]
    first, last = found["alone"]
    assert (first["attention"]["layer"], first["mlp"]["layer"]) == (1, 1)
    assert (last["attention"], last["mlp"]) == (None, None), "behind the last layer is the head"
    moved = {row["layer"]: max(row["variation"]) for row in found["together"]["attention"]}
    assert moved[0] == 0 < moved[1]
    assert main(["lens", "--vectors", "run-1", "--inside", "--output=x"]) == 2
    assert "inside = True: needs texts of at least two tokens" in capsys.readouterr().err


def test_two_runs_are_compared_and_nothing_is_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lens", "--vectors", "run-1", "run-2", "--output=both"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "run-1 (rows) and run-2 (columns)" in shown
    (pair,) = json.loads((folder / "both/between.json").read_text())["pairs"]
    assert (pair["a"], pair["b"], pair["layers_a"]) == ("run-1", "run-2", [0, 2])
    one = json.loads((folder / "both/run-1/lens.json").read_text())
    flipped = -torch.tensor(one["cosines"])  # the second file is the first one turned round
    torch.testing.assert_close(torch.tensor(pair["cosines"]), flipped, rtol=0, atol=1e-5)
    two = json.loads((folder / "both/run-2/lens.json").read_text())
    assert two["layers"][1]["bottom"]["cosine"][0] == ["+", pytest.approx(-1, abs=1e-5)]
    assert two["stable_rank"] == pytest.approx(one["stable_rank"], rel=1e-5)
    assert (one["first_token"], one["layers"][0]["stream_rms"]) == (None, None)
    for path in ("lens.png", "run-1/between.json"):
        assert not (folder / "both" / path).exists()
    assert (folder / "both/between.png").exists()

    assert main(words) == 2
    assert "already holds between.json" in capsys.readouterr().err
    before = (folder / "both/run-2/lens.json").read_bytes()
    for name in ("inside.png", "mine.png"):
        (folder / "both/run-2" / name).write_text("a picture of an earlier look")
    assert main([*words, "--overwrite", "--num_tokens=2"]) == 0
    assert (folder / "both/run-2/lens.json").read_bytes() != before
    assert not (folder / "both/run-2/inside.png").exists()
    assert (folder / "both/run-2/mine.png").exists()


def test_vectors_that_act_elsewhere_are_seen_at_work(
    folder: Path, capsys: pytest.CaptureFixture[str], tiny_base: str
) -> None:
    plain = load_vectors(folder / "run-1/steering_vectors.safetensors").vectors
    vectors = AdaptiveVectors([0, 2], site="mlp_output", tokens="prompt").shaped(WIDTH, LAYERS)
    vectors.set_vectors(plain)
    vectors.gates.data.normal_()
    vectors.save(folder / "run-3/adaptive_vectors.safetensors", base_model=tiny_base)
    assert main(["lens", "--vectors", "run-3", "--texts", "1+1="]) == 0
    assert "decoder layers, at mlp_output, only for prompt tokens" in capsys.readouterr().out
    found = json.loads((folder / "run-3/lens/lens.json").read_text())
    assert found["layers"][1]["top"]["cosine"][0][0] == "+"
    ((token, base, steered),) = found["first_token"]["up"][:1]
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = torch.tensor([AutoTokenizer.from_pretrained(tiny_base)("1+1=")["input_ids"]])
    with torch.no_grad(), attach(model, vectors):
        expected = model(ids).logits[0, -1].softmax(-1)
    row = AutoTokenizer.from_pretrained(tiny_base)(token)["input_ids"][-1]
    assert steered == pytest.approx(float(expected[row]), rel=1e-4)
    assert steered > base


def test_problems_of_a_source_go_through_the_template(folder: Path) -> None:
    words = ["lens", "--vectors", "run-1", "--final_norm", "--num_prompts=3"]
    words += ["--prompts=steer_lightning.data.Arithmetic"]
    words += ["--template=steer_lightning.data.PlainTemplate", "--template.text={question}=?"]
    assert main(words) == 0
    found = json.loads((folder / "run-1/lens/lens.json").read_text())
    assert found["final_norm"] is True
    prompts = [one["prompt"] for one in found["first_token"]["prompts"]]
    assert len(prompts) == found["first_token"]["num_prompts"] == 3
    assert all(prompt.endswith("=?") for prompt in prompts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vectors=no.safetensors",), "there is no such file"),
        (("--vectors=.",), "contains no steering_vectors.safetensors"),
        (("--vectors", "run-1", "run-1"), "names a file twice"),
        (("--vectors=run-1", "--base=quickstart"), "does not fit quickstart"),
        (("--vectors=run-4",), "'steered': holds LoRA of rank 1 on 3 linear layers"),
        (("--vectors=run-1", "--num_tokens=0"), "num_tokens = 0: must be at least 1"),
        (("--vectors=run-1", "--num_prompts=0"), "num_prompts = 0: must be at least 1"),
        (("--vectors=run-1", "--texts=[]"), "holds no problems"),
        (("--vectors=run-1", "--texts", ""), "renders nothing"),
        (("--vectors=run-1", "--prompts=steer_lightning.data.Arithmetik"), "has no Arithmetik"),
        (
            ("--vectors=run-1", "--prompts=steer_lightning.data.Arithmetic"),
            "has no chat template",
        ),
        (
            ("--vectors=run-1", "--texts=[a]", "--prompts=steer_lightning.data.Arithmetic"),
            "can't be given together with prompts",
        ),
        ((), "vectors = None: must be set"),
    ],
)
def test_mistakes_are_told_before_the_base_is_loaded(
    folder: Path,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*args: object, **options: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    assert main(["lens", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.rglob("lens.json"))


def test_vectors_whose_figures_overflow_are_refused_with_their_layer(
    folder: Path, capsys: pytest.CaptureFixture[str], tiny_base: str
) -> None:
    path = folder / "run-5/steering_vectors.safetensors"
    rows = torch.stack([torch.ones(WIDTH), torch.full((WIDTH,), 1e25)])
    save_vectors(rows, path, base_model=tiny_base, layers=[0, 2], num_layers=LAYERS)
    assert main(["lens", "--vectors", "run-5"]) != 0
    assert "layers.norm of layer 2 is inf" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run-5/lens/lens.json").exists()
