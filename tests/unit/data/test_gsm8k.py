"""GSM8K from a folder, and without the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_lightning import ConfigError
from steer_lightning.data import GSM8K
from steer_lightning.data.gsm8k import final_answer


def test_gsm8k_from_a_folder(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": "First 1.\n#### 1,200"}]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(rows[0]))
    for path in (tmp_path, tmp_path / "test.jsonl"):
        assert [p.answer for p in GSM8K("test", path=str(path)).load()] == ["1200"]
    with pytest.raises(ConfigError, match=r"GSM8K.path = '.*none': there is no file .*none"):
        GSM8K(path=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="####"):
        final_answer("no mark")


def test_an_unreachable_hub_names_the_option_for_a_local_path() -> None:
    with pytest.raises(ConfigError, match=r"openai/gsm8k.*`path`"):
        GSM8K("train").load()
