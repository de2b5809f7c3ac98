"""Exports recommend only what works, and say so if a base has no tokenizer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf

from steer_lightning import ConfigError, export_vectors, save_vectors
from steer_lightning.model.hub import has_tokenizer_files
from steer_lightning.model.policy import Policy
from steer_lightning.results.export import families
from steer_lightning.results.export.base import Base
from steer_lightning.results.export.formats import FORMATS
from steer_lightning.results.model_card import model_card
from steer_lightning.testing import save_tiny

LAYERS, WIDTH = 3, 32


def base_of(folder: Path, architecture: str, tokenizer: bool = True) -> str:
    save_tiny(folder, architecture)
    for path in folder.glob("*token*") if not tokenizer else ():
        path.unlink()
    return str(folder)


def vectors_of(folder: Path, base: str, layers: tuple[int, ...] = (0, 1, 2)) -> Path:
    path = folder / "v.safetensors"
    rows = torch.randn(len(layers), WIDTH)
    save_vectors(rows, path, base_model=base, layers=layers, num_layers=LAYERS)
    return path


def recommends(text: str) -> bool:
    return "--to transformers" in text


@pytest.mark.parametrize(
    ("architecture", "works"),
    [("llama", True), ("qwen2", True), ("qwen3", False), ("phi3", False), ("mistral", False)],
)
def test_a_readme_recommends_another_export_only_where_that_is_not_refused(
    architecture: str, works: bool, tmp_path: Path
) -> None:
    """The tiny Mistral has a sliding window, which a Llama has not."""
    base = base_of(tmp_path / "base", architecture)
    vectors = vectors_of(tmp_path, base)
    assert families.has_llama_form(Base(base)) == works
    if works:
        export_vectors(vectors, to="transformers", output=tmp_path / "merged", verify=False)
    else:
        with pytest.raises(ConfigError, match="can't hold vectors"):
            export_vectors(vectors, to="transformers", output=tmp_path / "merged", verify=False)
    for to in ("peft", "gguf"):
        export_vectors(vectors, to=to, output=tmp_path / to, verify=False)
        assert recommends((tmp_path / to / "README.md").read_text()) == works
    first = vectors_of(tmp_path, base, layers=(0,))
    with pytest.raises(ConfigError, match="layer 0") as caught:
        export_vectors(first, to="gguf", output=tmp_path / "first", verify=False)
    assert recommends(str(caught.value)) == works


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("to", ["peft", "gguf", "easysteer"])
def test_a_base_without_a_tokenizer_is_refused_before_it_loads(
    architecture: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a Llama transformers makes no tokenizer then, of a Qwen one that reads nothing."""
    base = base_of(tmp_path / "base", architecture, tokenizer=False)
    vectors = vectors_of(tmp_path, base)
    monkeypatch.setattr(tf.AutoModelForCausalLM, "from_pretrained", None)  # nothing loads
    with pytest.raises(ConfigError, match=r"has no (usable )?tokenizer\..*--verify=false") as e:
        export_vectors(vectors, to=to, output=tmp_path / "out")
    assert (e.value.key, e.value.value) == ("merge_from", base)
    assert not (tmp_path / "out").exists()
    export_vectors(vectors, to=to, output=tmp_path / "out", verify=False)
    assert "Not compared." in (tmp_path / "out/README.md").read_text()


def test_a_base_without_a_tokenizer_can_be_merged_unseen(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "llama", tokenizer=False)
    vectors = vectors_of(tmp_path, base)
    with pytest.raises(ConfigError, match=r"has no (usable )?tokenizer"):
        export_vectors(vectors, to="transformers", output=tmp_path / "out")
    export_vectors(vectors, to="transformers", output=tmp_path / "out", verify=False)
    assert type(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")) is tf.LlamaForCausalLM


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_policy_without_a_tokenizer_is_refused_before_it_loads(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(base_of(tmp_path / "base", architecture, tokenizer=False))
    monkeypatch.setattr(tf.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(ConfigError, match=r"model\.base = .*has no (usable )?tokenizer"):
        policy.load()


def test_a_damaged_tokenizer_is_not_called_a_missing_one(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "llama")
    assert has_tokenizer_files(Path(base))
    (Path(base) / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"can't be loaded\. its tokenizer"):
        _ = Policy(base).tokenizer


def test_the_usage_loads_the_revision_of_the_export(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", "llama")
    vectors = vectors_of(tmp_path, base)
    for to, at in (
        ("peft", 'revision = "v2"\n'),
        ("peft", "from_pretrained(base, revision=revision)"),
        ("gguf", f"`BASE.gguf` is {base} at revision v2, converted"),
        ("easysteer", f"vllm serve {base} --revision v2 --enable-steer-vector"),
        ("easysteer", f"`vllm serve {base} --revision v2 --steering-config"),
    ):
        for revision in ("v2", None):
            options = {"output": tmp_path / to, "verify": False, "overwrite": True}
            export_vectors(vectors, to=to, revision=revision, **options)
            text = (tmp_path / to / "README.md").read_text()
            assert (at in text) == (revision is not None)


def test_what_is_written_about_an_export_is_formatted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a clone `ruff format --check` reads Markdown, too."""
    pytest.importorskip("ruff")
    monkeypatch.chdir(tmp_path)
    base = base_of(
        Path("a disk that is shared/by many people/who write long names/it's one"), "llama"
    )
    vectors = vectors_of(Path(), base)
    for to in FORMATS:
        export_vectors(vectors, to=to, output=f"exports/{to}", verify=False)
    for name in ("quickstart", base):
        folder = Path("cards") / Path(name).name
        folder.mkdir(parents=True)
        save_vectors(torch.ones(1, 8), folder / "steering_vectors.safetensors", base_model=name)
        card = model_card(folder, "user/a-repository-with-a-name-that-is-rather-long")
        (folder / "README.md").write_text(card.content)
    written = sorted(Path().rglob("README.md"))
    assert len(written) == len(FORMATS) + 2
    for path in written:
        for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
            compile(code, str(path), "exec")
    words = [sys.executable, "-m", "ruff", "format", "--isolated", "--no-cache", "--diff"]
    done = subprocess.run([*words, *map(str, written)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
