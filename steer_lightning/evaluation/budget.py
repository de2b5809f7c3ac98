"""Budget forcing: completions whose thinking is made longer, or cut short, while they are sampled.

Source: s1 (arXiv 2501.19393). With a budget, a completion y of a prompt x is

    y = s_0 w s_1 w ... s_k        if the model ends it by itself within the budget,
    y = s_0 w s_1 w ... s_k a z    if the budget is used up, or thinking and answer are two parts,

where each s is sampled by the model after everything before it, the text w (`wait`, "Wait" in the
paper) stands in place of the EOS token that the model drew, k is `num_waits` at most, a is
`answer_prefix`, and z is sampled again. A minimum is k, a maximum is the number of tokens before a.

All parts are joined as token ids: what the model has drawn is never decoded and encoded again. To
continue a completion, an engine is asked to answer a prompt that ends with the completion so far,
so this works with every engine. Each part after the first reads its text once more.

Degenerate case: a completion that the model ends within a budget without waits is the completion
without a budget, token by token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    for name, steering in steerings.items() if budgets else ():
        steered = getattr(steering, "tokens", "all")
        if steered != "all":
            raise ConfigError(
                KEY,
                list(budgets),
                rule=f"contradicts the vectors {name}, which steer the tokens {steered!r}",
                why="A completion is continued as a prompt that ends with it, so that such vectors "
                "would act on other tokens than before",
                fix="Leave out budgets, or use vectors with tokens: all",
            )
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


@dataclass(kw_only=True)
class _Row:
    """A completion while it grows."""

    number: int
    """Id that distinguishes the row from all rows of all prompts, for the sampling seed."""
    prompt: Prompt
    ids: list[int]
    """Tokens so far, drawn and forced."""
    finished: bool
    """Whether the model ended what it sampled last."""

    @property
    def length(self) -> int:
        """Number of tokens of the text, prompt included."""
        return len(self.prompt.token_ids) + len(self.ids)


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
    rows = _first_part(engine, prompts, thinking, seed)
    step = EVALUATION_STEP
    for _ in range(budget.num_waits):
        step -= 1
        going = [row for row in rows if _can_wait(row, forced, limit)]
        for row in going:
            row.ids[-1:] = forced.wait
        for room, some in _calls(going, limit, policy):
            part = replace(thinking, group_size=1, max_new_tokens=room)
            _continue(engine, some, part, seed, step)
        for row in going:  # sampled beside rows with more room
            row.finished &= len(row.ids) <= limit
            del row.ids[limit:]
    answering = [row for row in rows if row.finished and forced.end == row.ids[-1:]]
    if budget.max_thinking_tokens is not None:
        cut = [row for row in rows if not row.finished]
        for row in cut:
            row.ids += forced.end + forced.prefix
        answering += cut
    answer = replace(sampling, group_size=1, max_new_tokens=budget.max_answer_tokens)
    _continue(engine, answering, answer, seed, step - 1)
    texts = decode_texts(policy.tokenizer, [row.ids for row in rows], policy.ids_without_text)
    return [
        completion_of(row.prompt.problem, text, len(row.ids), row.finished)
        for row, text in zip(rows, texts, strict=True)
    ]


def _first_part(
    engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[_Row]:
    """Samples what stands before the first forced token, (B * G rows)."""
    rollouts = engine.generate(
        prompts, sampling, seed=seed, step=EVALUATION_STEP, on_completion=ignore
    )
    size = sampling.group_size
    rows = [
        _Row(number=prompt.id * size + sample, prompt=prompt, ids=[], finished=False)
        for prompt in prompts
        for sample in range(size)
    ]
    _extend(rows, rollouts)
    return rows


def _extend(rows: Sequence[_Row], rollouts: Rollouts) -> None:
    """Appends what an engine has sampled, one completion for each row."""
    lengths, finished = rollouts.completion_mask.sum(1).tolist(), rollouts.finished.tolist()
    drawn = rollouts.completion_ids.tolist()
    for row, ids, length, done in zip(rows, drawn, lengths, finished, strict=True):
        row.ids += ids[:length]
        row.finished = done


def _continue(
    engine: RolloutEngine, rows: Sequence[_Row], sampling: Sampling, seed: int, step: int
) -> None:
    """Samples one further part of each row."""
    if not rows:
        return
    prompts = [
        replace(row.prompt, id=row.number, token_ids=(*row.prompt.token_ids, *row.ids))
        for row in rows
    ]
    _extend(rows, engine.generate(prompts, sampling, seed=seed, step=step, on_completion=ignore))


def _can_wait(row: _Row, forced: _Forced, limit: int) -> bool:
    """Returns whether thinking has ended, with room for `wait` and a further token."""
    is_over = row.finished and (not forced.end or row.ids[-1:] == forced.end)
    return is_over and len(row.ids) - 1 + len(forced.wait) < limit


def _calls(
    rows: Sequence[_Row], limit: int, policy: Policy
) -> Iterator[tuple[int, Sequence[_Row]]]:
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
