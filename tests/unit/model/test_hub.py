"""Where a base comes from, and in which words it is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from steer_lightning import ConfigError
from steer_lightning.model.hub import (
    eos_token_ids,
    has_tokenizer_files,
    hub_errors,
    load_tokenizer,
    pad_token_id,
    resolve_base,
)
from steer_lightning.testing import byte_tokenizer, save_tiny, tiny_model


def test_names_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").touch()
    assert (Path(resolve_base("quickstart")) / "config.json").is_file()
    assert resolve_base("Qwen/Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"
    assert resolve_base("gpt2") == "gpt2"
    assert resolve_base("~/mine") == str(tmp_path / "mine")
    for missing in ("./none", "/none", "~/none", "a/b/c"):
        with pytest.raises(ConfigError, match=r"the\.key = .*: there is no such folder"):
            resolve_base(missing, "the.key")


def test_errors_of_loading_name_the_base_and_others_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with (
        pytest.raises(ConfigError, match=r"model\.base = .*can't be loaded.*two words") as found,
        hub_errors(str(tmp_path)),
    ):
        raise OSError("two\n  words.")
    assert isinstance(found.value.__cause__, OSError)
    for error in (ConfigError("other", 1, rule="is wrong"), KeyError("mine")):
        with pytest.raises(type(error)) as kept, hub_errors(str(tmp_path)):
            raise error
        assert kept.value is error


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    assert has_tokenizer_files(tmp_path / "base")
    assert load_tokenizer(base, base)("a")["input_ids"] == byte_tokenizer()("a")["input_ids"]
    for file in (tmp_path / "base").glob("tokenizer*"):
        file.unlink()
    assert not has_tokenizer_files(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"model\.base = .* has no (usable )?tokenizer"):
        load_tokenizer(base, base)


def test_a_damaged_tokenizer_is_told_apart_from_a_missing_one(tmp_path: Path) -> None:
    base = save_tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"can't be loaded.*its tokenizer can't be read"):
        load_tokenizer(base, base)


def test_all_tokens_that_end_a_text_count() -> None:
    model, tokenizer = tiny_model(), byte_tokenizer()
    assert eos_token_ids(model, tokenizer) == (2,)
    model.generation_config.eos_token_id = [7, 2]
    model.config.eos_token_id = 9
    assert eos_token_ids(model, tokenizer) == (2, 7, 9)


def test_the_token_to_pad_with() -> None:
    assert pad_token_id(byte_tokenizer(), (2,), 259) == 0
    without: Any = SimpleNamespace(pad_token_id=None)
    assert pad_token_id(without, (5, 7), 259) == 5
    assert pad_token_id(without, (), 259) == 0
    beyond: Any = SimpleNamespace(pad_token_id=300)
    assert pad_token_id(beyond, (5, 7), 259) == 5


def test_a_cached_base_loads_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://no.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cached, commit = tmp_path / "models--org--x", "0" * 40
    save_tiny(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    tokenizer = load_tokenizer("org/x", "org/x", cache_dir=str(tmp_path))
    assert tokenizer("a")["input_ids"] == byte_tokenizer()("a")["input_ids"]
    with pytest.raises(ConfigError, match=r"model.base = 'org/y': can't be loaded"):
        load_tokenizer("org/y", "org/y", cache_dir=str(tmp_path))


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"base = .* the folder contains no config.json, so it is not"
    ):
        resolve_base(str(tmp_path), "base")
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ConfigError, match="It contains a PEFT adapter"):
        resolve_base(str(tmp_path))
    (tmp_path / "config.json").touch()
    assert resolve_base(str(tmp_path)) == str(tmp_path)
