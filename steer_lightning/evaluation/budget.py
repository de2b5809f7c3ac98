"""Budget forcing: completions whose thinking is made longer, or cut short, while they are sampled.

Source: s1 (arXiv 2501.19393). With a budget, a completion y of a prompt x is

    y = s_0 w s_1 w ... s_k        if the model ends it by itself within the budget,
    y = s_0 w s_1 w ... s_k a z    if the budget is used up, or thinking and answer are two parts,

where each s is sampled by the model after everything before it, the text w (`wait`, "Wait" in the
paper) stands in place of the EOS token that the model drew, k is `num_waits` at most, a is
`answer_prefix`, and z is sampled again. A minimum is k, a maximum is the number of tokens before a.

`continued` has how a completion is sampled in several parts.

Degenerate case: a completion that the model ends within a budget without waits is the completion
without a budget, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation.continued import (
    GrowingRow,
    check_steers_all_tokens,
    completions_of_rows,
    continue_rows,
    continue_up_to,
    first_part,
)
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.steering import Steering
from steer_lightning.types import Completion, Prompt

KEY = "budgets"


@dataclass(frozen=True, kw_only=True)
class Budget:
    r"""Settings of budget forcing (s1, arXiv 2501.19393).

    Attributes:
        num_waits: Number of times that `wait` is put in place of what ends the thinking; 0 leaves
            the end where the model puts it.
        wait: Text that lets the model go on.
        max_thinking_tokens: Largest number of tokens of thinking, `wait` included, after which
            `answer_prefix` is forced; null cuts thinking off at `sampling.max_new_tokens`, without
            an answer.
        answer_prefix: Text that begins a forced answer.
        max_answer_tokens: Largest number of tokens sampled after the thinking.
        thinking_end: Token that ends the thinking and begins the answer, such as `</think>`; null
            for models whose thinking ends with the completion.
    """

    num_waits: int = 0
    wait: str = "Wait"
    max_thinking_tokens: int | None = None
    answer_prefix: str = "\nFinal answer: \\boxed{"
    max_answer_tokens: int = 64
    thinking_end: str | None = None

    def __post_init__(self) -> None:
        """Raises a ConfigError for a value out of range, or for a budget that forces nothing."""
        most = self.max_thinking_tokens
        rules = {
            "num_waits": (self.num_waits >= 0, "must be 0 (never) or more"),
            "wait": (bool(self.wait), "must not be empty"),
            "max_thinking_tokens": (most is None or most >= 1, "must be at least 1, or null"),
            "max_answer_tokens": (self.max_answer_tokens >= 1, "must be at least 1"),
            "thinking_end": (self.thinking_end != "", "must be null or the text of a token"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"{KEY}.{key}", getattr(self, key), rule=rule)
        if most is None and not self.num_waits:
            raise ConfigError(
                f"{KEY}.num_waits",
                0,
                rule="forces nothing, since max_thinking_tokens is null",
                why="Such an arm would repeat the one without a budget",
                fix="Set num_waits, max_thinking_tokens, or both",
            )


@dataclass(frozen=True, kw_only=True)
class _Forced:
    """The token ids of a budget's texts."""

    wait: list[int]
    prefix: list[int]
    end: list[int]
    """The token that ends the thinking; empty if thinking ends with the completion."""


def _forced(budget: Budget, tokenizer: Any) -> _Forced:
    texts = (budget.wait, budget.answer_prefix, budget.thinking_end or "")
    wait, prefix, end = (list(tokenizer.encode(x, add_special_tokens=False)) for x in texts)
    return _Forced(wait=wait, prefix=prefix, end=end)


def check_budgets(
    budgets: Mapping[str, Budget],
    steerings: Mapping[str, Steering],
    samplings: Mapping[str, Sampling],
    tokenizer: Any,
) -> None:
    """Raises a ConfigError for budgets that contradict other settings; needs no loaded model.

    Args:
        budgets: Budgets by name.
        steerings: Steering of the arms by their names.
        samplings: Settings with which the arms are sampled, by their keys.
        tokenizer: Tokenizer of the base.
    """
    if budgets:
        check_steers_all_tokens(KEY, budgets, steerings)
    for name, budget in budgets.items():
        forced = _forced(budget, tokenizer)
        if budget.thinking_end is not None and len(forced.end) != 1:
            raise ConfigError(
                f"{KEY}.{name}.thinking_end",
                budget.thinking_end,
                rule=f"is {len(forced.end)} tokens of the base's tokenizer, and must be one",
                why="The end of the thinking is recognized by its token",
            )
        for key, sampling in samplings.items():
            _check_sampling(f"{KEY}.{name}", budget, forced, key, sampling)


def _check_sampling(
    own: str, budget: Budget, forced: _Forced, key: str, sampling: Sampling
) -> None:
    if not budget.num_waits:
        return
    if sampling.stop_strings:
        raise ConfigError(
            f"{own}.num_waits",
            budget.num_waits,
            rule=f"contradicts {key}.stop_strings = {list(sampling.stop_strings)!r}",
            why="A stop string is a part of the text, in whose place nothing can be put",
            fix=f"Set {key}.stop_strings: [] or num_waits: 0",
        )
    most, source = sampling.max_new_tokens, f"{key}.max_new_tokens"
    if budget.max_thinking_tokens is not None:
        most, source = budget.max_thinking_tokens, f"{own}.max_thinking_tokens"
    if len(forced.wait) >= most:
        raise ConfigError(
            f"{own}.wait",
            budget.wait,
            rule=f"has {len(forced.wait)} tokens, and no room within {source} = {most}",
            fix=f"Shorten it, or raise {source}",
        )


def most_tokens_within(budget: Budget, sampling: Sampling, tokenizer: Any) -> int:
    """Returns the number of tokens that the longest completion within a budget may have."""
    forced = _forced(budget, tokenizer)
    thinking = _thinking_limit(budget, sampling)
    if budget.max_thinking_tokens is None and not forced.end:
        return thinking  # no answer is sampled apart from the thinking
    return thinking + len(forced.end) + len(forced.prefix) + budget.max_answer_tokens


def most_tokens_by_budget(
    budgets: Mapping[str, Budget], samplings: Sequence[Sampling], tokenizer: Any
) -> dict[str, int]:
    """Returns the largest number of tokens of a completion within each budget, by its key."""
    return {
        f"{KEY}.{name}, tokens in all": max(
            most_tokens_within(budget, sampling, tokenizer) for sampling in samplings
        )
        for name, budget in budgets.items()
    }


def _thinking_limit(budget: Budget, sampling: Sampling) -> int:
    most = budget.max_thinking_tokens
    return sampling.max_new_tokens if most is None else most


def answer_within(
    policy: Policy,
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    budget: Budget,
    seed: int,
) -> list[Completion]:
    """Answers prompts within a budget.

    Args:
        policy: Loaded policy of the engine.
        engine: Engine that answers.
        prompts: The B problems, at least one.
        sampling: Settings for answering the problems, with G completions each.
        budget: Settings of the budget.
        seed: Seed of the run.

    Returns:
        The B * G completions, with forced tokens in their text and in their number of tokens.
    """
    forced, limit = _forced(budget, policy.tokenizer), _thinking_limit(budget, sampling)
    thinking = replace(
        sampling, max_new_tokens=limit, eos_token_ids=[*sampling.eos_token_ids, *forced.end]
    )
    rows = first_part(engine, prompts, thinking, seed)
    step = EVALUATION_STEP
    for _ in range(budget.num_waits):
        step -= 1
        going = [row for row in rows if _can_wait(row, forced, limit)]
        for row in going:
            row.ids[-1:] = forced.wait
        continue_up_to(limit, policy, engine, going, thinking, seed, step)
    answering = [row for row in rows if row.finished and forced.end == row.ids[-1:]]
    if budget.max_thinking_tokens is not None:
        cut = [row for row in rows if not row.finished]
        for row in cut:
            row.ids += forced.end + forced.prefix
        answering += cut
    answer = replace(sampling, max_new_tokens=budget.max_answer_tokens)
    continue_rows(engine, answering, answer, seed, step - 1)
    return completions_of_rows(policy, rows)


def _can_wait(row: GrowingRow, forced: _Forced, limit: int) -> bool:
    """Returns whether thinking has ended, with room for `wait` and a further token."""
    is_over = row.finished and (not forced.end or row.ids[-1:] == forced.end)
    return is_over and len(row.ids) - 1 + len(forced.wait) < limit
