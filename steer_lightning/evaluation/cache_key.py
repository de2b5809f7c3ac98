"""The facts on which completions depend: an evaluation resumes only with the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from typing import Any

from steer_lightning.evaluation.store import VERIFIER
from steer_lightning.evaluation.verdicts import verifier_facts
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import Reward
from steer_lightning.rollout import RolloutEngine
from steer_lightning.system.plain_settings import describe, describe_all
from steer_lightning.types import Prompt

WHERE_AND_HOW_FAST = {
    *("addresses", "start_timeout", "timeout", "on_lost_server", "links"),
    *("max_tokens_in_flight", "max_rows", "cuda_graphs", "fallback"),
}
"""Attributes of engines that may differ when an evaluation goes on, as on a smaller GPU: where
completions are sampled, how many at once, and what an engine finds out itself."""


def base_facts(policy: Policy) -> dict[str, Any]:
    """Returns what identifies a base, by keys of `settings.json`, before its weights load."""
    return {
        "base": policy.base,
        "base_hash": policy.source_hash,
        "revision": policy.revision,
        "dtype": policy.dtype,
        "base_bits": policy.base_bits,
    }


def plug_in_facts(engine: RolloutEngine, verifier: Reward) -> dict[str, Any]:
    """Describes engine and verifier as they are configured, before they keep what they find out."""
    return {"engine": engine_facts(engine), VERIFIER: verifier_facts(verifier)}


def engine_facts(engine: RolloutEngine) -> Any:
    """Returns the name of an engine, and its settings on which completions depend."""
    return _without(describe(engine), WHERE_AND_HOW_FAST)


def _without(settings: Any, names: Set[str]) -> Any:
    """Returns described settings without those of some names, also in objects within them."""
    if isinstance(settings, list):
        return [_without(item, names) for item in settings]
    if not isinstance(settings, dict):
        return settings
    return {key: _without(x, names) for key, x in settings.items() if key not in names}


def hash_prompts(prompts: Sequence[Prompt]) -> str:
    """Hashes the tokens that the model reads, and all of the problems, which verifiers read."""
    found = hashlib.sha256()
    for prompt in prompts:
        problem = prompt.problem
        texts = (problem.question, problem.answer, describe_all(problem.columns))
        found.update(repr((prompt.id, prompt.token_ids, texts)).encode("utf-8", "replace"))
    return found.hexdigest()
