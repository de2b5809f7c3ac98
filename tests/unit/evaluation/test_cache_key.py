"""What identifies the completions of an evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from steer_lightning.evaluation.cache_key import base_facts, hash_prompts
from steer_lightning.model.policy import Policy
from steer_lightning.testing import make_prompts


def test_the_hash_is_of_what_the_model_reads_and_of_the_answers() -> None:
    one, other = make_prompts(["a"]), make_prompts(["b"])
    assert hash_prompts(one) == hash_prompts(make_prompts(["a"]))
    assert (
        len({hash_prompts(one), hash_prompts(other), hash_prompts(one + other), hash_prompts([])})
        == 4
    )


def test_a_base_is_known_by_the_content_of_its_folder(tmp_path: Path) -> None:
    """Another export into the same folder is another base."""
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    policy = Policy(str(tmp_path))
    before = base_facts(policy)
    assert base_facts(policy) == before
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    after = base_facts(policy)
    assert {key for key in before if before[key] != after[key]} == {"base_hash"}
