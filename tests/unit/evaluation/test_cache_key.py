"""What identifies the completions of an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from steer_lightning.evaluation.cache_key import base_facts, engine_facts, hash_prompts
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, VLLMEngine
from steer_lightning.rollout.exact_engine import ExactEngine
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


def test_engines_are_known_by_what_they_sample_not_by_where() -> None:
    here, there = "http://127.0.0.1:1", "http://127.0.0.1:2"
    served = VLLMEngine([here], command="serve --dtype bfloat16")
    assert engine_facts(served) == {"class": "VLLMEngine", "command": "serve --dtype bfloat16"}
    moved = VLLMEngine([here, there], command="serve --dtype bfloat16", timeout=9)
    assert engine_facts(moved) == engine_facts(served)
    assert engine_facts(VLLMEngine([here], command="serve --quantization fp8")) != engine_facts(
        served
    )
    drafted = ExactEngine(DecodeEngine(max_tokens_in_flight=9))
    assert engine_facts(drafted) == {
        "class": "ExactEngine",
        "drafts": {"class": "DecodeEngine"},
        "max_tokens": 16384,
    }
    assert engine_facts(ExactEngine(served)) != engine_facts(drafted)


def test_the_hash_is_of_all_that_verifiers_read() -> None:
    (prompt,) = make_prompts(["a"])
    changes: list[dict[str, Any]] = [
        *({}, {"question": "other"}, {"answer": "other"}),
        *({"columns": {"tests": [text]}} for text in ("x", "y")),
    ]
    made = [replace(prompt, problem=replace(prompt.problem, **changed)) for changed in changes]
    assert len({hash_prompts([x]) for x in made}) == 5
    odd = [replace(prompt, problem=replace(prompt.problem, columns={"o": object()}))] * 2
    assert hash_prompts(odd[:1]) == hash_prompts(odd[1:]), "addresses do not count"
