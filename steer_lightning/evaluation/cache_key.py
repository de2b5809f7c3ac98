"""The facts on which completions depend: an evaluation resumes only with the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from steer_lightning.model.policy import Policy
from steer_lightning.types import Prompt


def base_facts(policy: Policy) -> dict[str, Any]:
    """Returns what identifies a base, by keys of `settings.json`, before its weights load."""
    return {
        "base": policy.base,
        "base_hash": policy.source_hash,
        "revision": policy.revision,
        "dtype": policy.dtype,
        "base_bits": policy.base_bits,
    }


def hash_prompts(prompts: Sequence[Prompt]) -> str:
    """Hashes the tokens that the model reads, and the gold answers."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(repr((prompt.id, prompt.token_ids, prompt.problem.answer)).encode())
    return found.hexdigest()
