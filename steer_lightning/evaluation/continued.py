"""Completions that are continued: sampled by an engine in several parts, with a change in between.

All parts are joined as token ids: what the model has drawn is never decoded and encoded again. To
continue a completion, an engine is asked to answer a prompt that ends with the completion so far,
so this works with every engine. Each part after the first reads its text once more.

The random numbers of a part depend on (seed, step, number of the row) only, so that a row does not
depend on the rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.model.rotary import switch_length
from steer_lightning.rollout import RolloutEngine, Sampling, completion_of
from steer_lightning.rollout.completions import decode_texts
from steer_lightning.rollout.engine import ignore
from steer_lightning.steering import Steering
from steer_lightning.types import Completion, Prompt, Rollouts


def check_steers_all_tokens(
    key: str, names: Iterable[str], steerings: Mapping[str, Steering]
) -> None:
    """Raises a ConfigError for vectors that would act on other tokens of a continued completion.

    Args:
        key: Key of the setting that continues completions.
        names: Names under which it is set.
        steerings: Steering of the arms by their names.
    """
    for name, steering in steerings.items():
        steered = getattr(steering, "tokens", "all")
        if steered != "all":
            raise ConfigError(
                key,
                list(names),
                rule=f"contradicts the vectors {name}, which steer the tokens {steered!r}",
                why="A completion is continued as a prompt that ends with it, so that such vectors "
                "would act on other tokens than before",
                fix=f"Leave out {key}, or use vectors with tokens: all",
            )


@dataclass(kw_only=True)
class GrowingRow:
    """A completion that is sampled in several parts."""

    number: int
    """Id that distinguishes the row from all rows of all prompts, for the sampling seed."""
    prompt: Prompt
    ids: list[int]
    """Tokens so far: those that were drawn, and those that were put there."""
    finished: bool
    """Whether the model ended what it sampled last."""

    @property
    def length(self) -> int:
        """Number of tokens of the text, prompt included."""
        return len(self.prompt.token_ids) + len(self.ids)


def first_part(
    engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[GrowingRow]:
    """Samples the first part of each completion, B * G rows."""
    rollouts = engine.generate(
        prompts, sampling, seed=seed, step=EVALUATION_STEP, on_completion=ignore
    )
    size = sampling.group_size
    rows = [
        GrowingRow(number=prompt.id * size + sample, prompt=prompt, ids=[], finished=False)
        for prompt in prompts
        for sample in range(size)
    ]
    _extend(rows, rollouts)
    return rows


def _extend(rows: Sequence[GrowingRow], rollouts: Rollouts) -> None:
    """Appends what an engine has sampled, one completion for each row."""
    lengths, finished = rollouts.completion_mask.sum(1).tolist(), rollouts.finished.tolist()
    drawn = rollouts.completion_ids.tolist()
    for row, ids, length, done in zip(rows, drawn, lengths, finished, strict=True):
        row.ids += ids[:length]
        row.finished = done


def continue_rows(
    engine: RolloutEngine, rows: Sequence[GrowingRow], sampling: Sampling, seed: int, step: int
) -> None:
    """Samples one further part of each row."""
    if not rows:
        return
    prompts = [
        replace(row.prompt, id=row.number, token_ids=(*row.prompt.token_ids, *row.ids))
        for row in rows
    ]
    alone = replace(sampling, group_size=1)
    _extend(rows, engine.generate(prompts, alone, seed=seed, step=step, on_completion=ignore))


def continue_up_to(
    limit: int,
    policy: Policy,
    engine: RolloutEngine,
    rows: Sequence[GrowingRow],
    sampling: Sampling,
    seed: int,
    step: int,
) -> list[int]:
    """Samples one further part of each row, until it ends or has `limit` tokens.

    Returns:
        Number of tokens of each text, prompt included, with those that were sampled beyond `limit`
        because a row beside it had more room, and are dropped.
    """
    for room, some in _calls(rows, limit, policy):
        continue_rows(engine, some, replace(sampling, max_new_tokens=room), seed, step)
    lengths = [row.length for row in rows]
    for row in rows:  # sampled beside rows with more room
        row.finished &= len(row.ids) <= limit
        del row.ids[limit:]
    return lengths


def _calls(
    rows: Sequence[GrowingRow], limit: int, policy: Policy
) -> Iterator[tuple[int, Sequence[GrowingRow]]]:
    """Divides rows among calls of an engine, which samples equally many tokens for all rows.

    A row may get more tokens than it has room for, which are dropped later. So all rows share a
    call, unless the text of a row could exceed the positions of the base.

    Yields:
        Number of tokens to sample, and the rows.
    """
    most = _most_positions(policy.model.config)
    left = sorted(rows, key=lambda row: len(row.ids))
    while left:
        room = limit - len(left[0].ids)
        some = [row for row in left if row is left[0] or row.length + room <= most]
        yield room, some
        left = [row for row in left if row.number not in {other.number for other in some}]


def _most_positions(config: Any) -> float:
    """Returns the length of the longest text that the base reads with the same frequencies."""
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    switch = switch_length(config)
    return min(known or math.inf, switch[1] if switch else math.inf)


def completions_of_rows(policy: Policy, rows: Sequence[GrowingRow]) -> list[Completion]:
    """Returns the completions of rows that grow no further."""
    texts = decode_texts(policy.tokenizer, [row.ids for row in rows], policy.ids_without_text)
    return [
        completion_of(row.prompt.problem, text, len(row.ids), row.finished)
        for row, text in zip(rows, texts, strict=True)
    ]
