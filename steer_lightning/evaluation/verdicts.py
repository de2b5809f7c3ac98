"""The verdicts on completions: what a verifier says, and verifying stored completions again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.results import Voting
from steer_lightning.evaluation.store import OUTCOME, Row, completion_of, unstorable
from steer_lightning.evaluation.votes import compare_by
from steer_lightning.rewards import (
    MathReward,
    Reward,
    RewardPool,
    RewardSum,
    Scores,
    WeightedReward,
    reward_name,
)
from steer_lightning.system.collectives import gather_objects, rank, world_size
from steer_lightning.system.plain_settings import describe, describe_all
from steer_lightning.system.printable import one_line
from steer_lightning.types import Prompt

log = logging.getLogger(__name__)


def judges_of(verifier: Reward, pool: RewardPool) -> tuple[RewardSum, Voting | None]:
    """Returns the sum of a verifier alone, and how its answers vote; None if they have no votes.

    Args:
        verifier: Reward that decides which answers are right.
        pool: Pool of processes that verify.
    """
    judge = RewardSum([WeightedReward(reward=verifier)], pool)
    if not isinstance(verifier, MathReward):
        return judge, None
    equal = RewardSum([WeightedReward(reward=MathReward())], pool)
    return judge, Voting(answer_in=verifier.answer_in, compare=compare_by(equal))


def verdicts_of(scores: Scores) -> tuple[list[float | None], list[str]]:
    """Returns the verdict on each completion, None where it has none, and its outcome."""
    (outcomes,) = scores.each.values()
    return scores.total, outcomes


def verified_anew(rows: Sequence[Row], judge: RewardSum) -> list[Row]:
    """Verifies stored completions again; each of n processes takes every n-th completion.

    Args:
        rows: All rows, the same in every process.
        judge: Sum of one reward, the verifier.

    Returns:
        The rows with new verdicts.

    Raises:
        ConfigError: If the verifier can judge none of them, though an earlier one could.
    """
    own = rows[rank() :: world_size()]
    verdicts: list[tuple[float | None, str]] = []
    with tqdm(total=len(own), unit="completion", desc="verifying", disable=rank() > 0) as bar:
        for start in range(0, len(own), 1000):
            part = [completion_of(row) for row in own[start : start + 1000]]
            verdicts += zip(*verdicts_of(judge(part)), strict=True)
            bar.update(len(part))
    shares = gather_objects(verdicts)
    found = [shares[n % len(shares)][n // len(shares)] for n in range(len(rows))]
    _check_verdicts(rows, found)
    return [
        {**row, "verdict": verdict, OUTCOME: outcome}
        for row, (verdict, outcome) in zip(rows, found, strict=True)
    ]


def _check_verdicts(rows: Sequence[Row], verdicts: Sequence[tuple[float | None, str]]) -> None:
    """Raises a ConfigError if verdicts would be lost, and none be gained."""
    if any(verdict is not None for verdict, _ in verdicts):
        return
    if any(row["verdict"] is not None for row in rows):
        raise ConfigError(
            "verifier",
            one_line(", ".join(sorted({outcome for _, outcome in verdicts}))),
            rule=f"none of the {len(rows)} completions gets a verdict",
            why="The verdicts that they have would be lost. The verifier fails, or it reads a "
            "column of the problems that is not stored with these completions",
            fix="Set another verifier, or evaluate anew with --overwrite",
        )


def tell_of_unstored(benchmark: str, prompts: Iterable[Prompt]) -> None:
    """Warns of columns that are not stored with the completions."""
    names = set().union(*(unstorable(prompt.problem.columns) for prompt in prompts))
    if names:
        log.warning(
            "benchmarks.%s: the columns %s hold values that JSON does not know, so they are not "
            "stored, and --rescore can't verify with them",
            one_line(benchmark),
            one_line(", ".join(sorted(names))),
        )


def tell_of_missing(rows: Sequence[Row], arms: Iterable[str]) -> None:
    """Warns of arms of which an evaluation that is verified again has no completions."""
    missing = sorted(set(arms) - {row["arm"] for row in rows})
    if missing:
        log.warning(
            "--rescore samples nothing, and there are no completions of %s: evaluate with another "
            "--output",
            one_line(", ".join(missing)),
        )


def verifier_facts(verifier: Reward) -> dict[str, Any]:
    """Returns the name of a verifier, its public settings, and a hash of all that it is.

    The hash covers private attributes and code of the user, which may be long.
    """
    found = describe(verifier)
    settings = found if isinstance(found, dict) else {}  # a function has no settings
    public = {k: settings[k] for k in settings if k != "class"}
    whole = hashlib.sha256(repr(describe_all(verifier)).encode("utf-8", "replace")).hexdigest()
    return {"name": reward_name(verifier), **public, "hash of code and settings": whole}
