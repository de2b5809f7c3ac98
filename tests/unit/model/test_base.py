"""What is known of the base before its weights load, and what is refused by then."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from steer_lightning import ConfigError
from steer_lightning.model.base import FrozenBase, load_model
from steer_lightning.testing import make_prompts, save_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(save_tiny(tmp_path / "base"))


def test_configuration_and_tokenizer_need_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    base = FrozenBase(str(folder))
    assert base.model is None
    assert base.tokenizer.eos_token_id == 2
    empty = base.empty_base()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert empty.model.layers[2].mlp.down_proj.weight.shape == (32, 64)
    with pytest.raises(ConfigError, match=r"model\.base = .*can't be loaded"):
        base._load_base()


def test_weights_load_in_the_dtype_that_is_asked_for(folder: Path) -> None:
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        base = FrozenBase(str(folder), dtype=dtype)  # type: ignore[arg-type]
        base.model = base._load_base()
        assert base.model.dtype == expected
    assert base.commit is None
    assert FrozenBase(str(folder), revision="v1").revision == "v1"


def test_float16_is_refused_unless_another_dtype_is_chosen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    with pytest.raises(ConfigError, match=r"model\.dtype = 'auto': .* stored in float16"):
        _ = FrozenBase(str(folder)).model_config
    assert FrozenBase(str(folder), dtype="float32").model_config.hidden_size == 32


def test_the_longest_prompt_and_completion_must_fit_the_positions(folder: Path) -> None:
    base = FrozenBase(str(folder))  # 256 positions
    prompts = make_prompts(["short", "x" * 200])
    longest = len(prompts[1].token_ids)
    base.check_prompts(prompts, 256 - longest, "the.key")
    with pytest.raises(ConfigError, match=rf"the\.key = {257 - longest}: .* the 256 positions"):
        base.check_prompts(prompts, 257 - longest, "the.key")


def test_code_of_strangers_is_announced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        FrozenBase(str(folder))
        assert not caplog.records
        FrozenBase(str(folder), trust_remote_code=True)
    assert f"code from {folder} runs on this machine" in caplog.text


def test_load_model_returns_a_frozen_model_and_its_tokenizer(folder: Path) -> None:
    model, tokenizer = load_model("quickstart")
    ids = tokenizer("3+4=?\n", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "3+4=?"
    assert model(ids).logits.shape == (1, ids.shape[1], model.config.vocab_size)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    tiny, tokenizer = load_model(str(folder), dtype="bfloat16")
    assert tiny.dtype == torch.bfloat16
    assert tokenizer.eos_token_id == 2


def test_load_model_names_its_own_arguments(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^base = '/none': there is no such folder"):
        load_model("/none")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    with pytest.raises(ConfigError, match=r"^dtype = 'auto'.* Set dtype: bfloat16 or float32"):
        load_model(str(folder))
