"""Guided completions: where a group has failed, the policy answers again with a hint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad

from steer_lightning.advantages.base import min_group_size_of
from steer_lightning.data.hinted_prompts import hinted_prompts
from steer_lightning.errors import ConfigError
from steer_lightning.losses import needs_of
from steer_lightning.rewards import Scores, reward_name
from steer_lightning.rollout import Sampling
from steer_lightning.rollout.exact_engine import ExactEngine
from steer_lightning.types import Prompt, Rollouts

SEED = 2**32
"""Number added to the seed of guided completions. Those of the same group must not have the same
random numbers, and seeds of runs are smaller."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    r"""Answers failed prompts again with a hint, and learns from that without the hint.

    This is Guide (arXiv 2506.13923). A group has failed if it has scored completions and none of
    them passes. Then `num_guided` further completions are sampled from the prompt with a hint h, by
    the policy as it is, and take the places of the last ones of the group. So a group keeps its
    size G, and advantages are computed over the group with the guided completions in it. The update
    reads each completion after the prompt without hint. The ratio of a token in the objective of
    the loss is

    `rho_t = pi(y_t | x, y_{<t}) / pi_old(y_t | x, y_{<t})` and, where the completion is guided,

    `rho_t = pi(y_t | x, y_{<t}) / pi_old(y_t | x, h, y_{<t})`,

    where the engine's log-probabilities are the denominator, since it has drawn from them. With the
    objective `Clip` both have the same formula, and so the same risk: for advantages below 0 it
    does not bound the ratio above. The policy's own ratios start at 1. Those of guided tokens do
    not: a token with the probability 1e-4 after the hint and 0.5 without it has the weight 5000,
    and may decide the step alone if the guided completion fails where others pass. `CISPO` bounds
    the weights of all tokens. An objective without a ratio would take guided completions for the
    policy's own, and is refused. The weights are exact for each token, but the product of a
    completion's ratios is replaced by the ratio of each token alone, as in PPO.

    The authors' code replaces all G completions (`num_guided` equal to `group_size`). It also
    shapes the ratios of guided tokens as rho / (rho + gamma), which is below 1, and leaves their
    clip out; neither is done here. A group none of whose completions could be scored has not
    failed: nothing is known about it.

    Rewards, progress and the order of the prompts (`data.order`) are those of the completions
    without hint, which the guided ones replace, also in `rollouts.parquet`. So `reward/mean` is
    comparable with that of a run without guidance.

    Attributes:
        text: Question with a hint, which takes the place of the question in `data.template`, such
            as "{question}\n\nHint: {solution}". Names in braces stand for the question, the answer
            and other columns of the problem; `{question}` is required. A hint that contains the
            whole answer may simply be copied.
        num_guided: Number of completions of a failed group that guided ones replace, from 1 to
            `model.sampling.group_size`.
        passes_at: Smallest reward of a completion that passes.
    """

    text: str
    num_guided: int
    passes_at: float = 0.5

    def __post_init__(self) -> None:
        """Raises a ConfigError for a text without question or hint, and for a number below 1."""
        if self.text.count("{question}") != 1:
            raise ConfigError(
                "model.guidance.text",
                self.text,
                rule="must contain {question} once",
                why="With its hint the policy answers the same question",
            )
        if self.text.strip() == "{question}":
            raise ConfigError(
                "model.guidance.text",
                self.text,
                rule="must contain a hint beside the question",
                fix='Set it to "{question}\\n\\nHint: {solution}", for example, with a column of '
                "the problems",
            )
        if self.num_guided < 1:
            raise ConfigError(
                "model.guidance.num_guided", self.num_guided, rule="must be at least 1"
            )

    def failed(self, rewards: torch.Tensor) -> torch.Tensor:
        """Returns whether each group has failed, (B,) bool.

        Args:
            rewards: Rewards (B, G), NaN where unscored.
        """
        scored = ~rewards.isnan()
        return scored.any(1) & ~(scored & (rewards >= self.passes_at)).any(1)


def make_hints(guidance: Guidance | None, data: Any, tokenizer: Any) -> Mapping[int, Prompt]:
    """Makes the prompts with hints of all training problems, before the model loads.

    Args:
        guidance: Settings of the run; None makes none.
        data: Data module of the run, whose prompts have been made.
        tokenizer: Tokenizer of the model.

    Returns:
        Prompts with hints, by the id of the prompt without.

    Raises:
        ConfigError: If the data module has no template, or a hint can't be made; see
            `hinted_prompts`.
    """
    if guidance is None:
        return {}
    for name in ("template", "max_prompt_tokens"):
        if not hasattr(data, name):
            raise ConfigError(
                "model.guidance",
                "on",
                rule=f"needs a data module with {name}, which {type(data).__name__} does not have",
                fix="Use PromptDataModule, or set model.guidance: null",
            )
    return hinted_prompts(
        data.prompts["train"], guidance.text, data.template, tokenizer, data.max_prompt_tokens
    )


def check_guidance(module: Any, loss: Any) -> None:
    """Raises a ConfigError for settings that guided completions contradict.

    Args:
        module: Module of the run, which has guidance; its other settings are read.
        loss: Loss of the run.
    """
    _check_numbers(module.guidance, module.sampling, module.reward.bounds)
    for is_wrong, rule, why, fix in (*_of_the_loss(module, loss), *_of_the_rest(module)):
        if is_wrong:
            raise ConfigError("model.guidance", "on", rule=f"needs {rule}", why=why, fix=fix)


NO_SAMPLES = (
    "Guided completions are no samples of the policy without hint, so they can't tell its KL to "
    "the base"
)
Refusal = tuple[bool, str, str, str]
"""Whether a setting is refused, what is needed instead, why, and the remedy."""


def _of_the_loss(module: Any, loss: Any) -> tuple[Refusal, ...]:
    needs, objective = needs_of(loss), reward_name(getattr(loss, "objective", loss))
    return (
        (
            not needs.uses_ratio,
            f"an objective with a ratio, which model.loss.objective = {objective} does not have",
            "Guided completions do not come from the policy without hint, and only the ratio "
            "corrects for that",
            "Set model.loss.objective: steer_lightning.losses.Clip. If a loss of your own has the "
            "ratio to old_logprobs, give it uses_ratio = True",
        ),
        (
            min_group_size_of(module.advantage) < 2,
            "an estimator that compares the completions of a group with each other, which "
            f"model.advantage = {reward_name(module.advantage)} does not",
            "Guided completions are learned from in comparison with the others of their group",
            "Set model.advantage to RLOO, GRPO or DrGRPO. If an estimator of your own compares "
            "completions, give it min_group_size = 2",
        ),
        (
            needs.reference,
            "model.loss.terms without KLToBase",
            NO_SAMPLES,
            "Remove KLToBase from model.loss.init_args.terms, or set model.guidance: null",
        ),
    )


def _of_the_rest(module: Any) -> tuple[Refusal, ...]:
    return (
        (
            module.kl_in_reward is not None,
            "model.kl_in_reward: null",
            NO_SAMPLES,
            "Set model.kl_in_reward: null, or model.guidance: null",
        ),
        (
            module.length_in_reward is not None,
            "model.length_in_reward: null",
            "A hint changes the length of a completion, and lengths are compared within a group",
            "Set model.length_in_reward: null, or model.guidance: null",
        ),
        (
            module.policy.quantization is not None and module.policy.quantization.where != "both",
            "model.quantization.where: both",
            "The ratio of a guided token would hold the mismatch of the quantised copy, too, which "
            "the loss corrects once more",
            "Set model.quantization.where: both, or model.guidance: null",
        ),
        (
            isinstance(module.engine, ExactEngine),
            "model.exact: false",
            "Guided completions change the blocks in which the update reads the others",
            "Set model.exact: false, or model.guidance: null",
        ),
        (
            module.max_staleness > 0,
            "model.max_staleness: 0",
            "Guided completions are sampled once the rewards of the others are known, so they "
            "can't be sampled ahead",
            "Set model.max_staleness: 0, or model.guidance: null",
        ),
    )


def _check_numbers(
    guidance: Guidance, sampling: Sampling, bounds: tuple[float, float] | None
) -> None:
    """Raises a ConfigError for numbers that do not fit the groups or the rewards."""
    if guidance.num_guided > sampling.group_size:
        raise ConfigError(
            "model.guidance.num_guided",
            guidance.num_guided,
            rule=f"must be at most model.sampling.group_size = {sampling.group_size}",
            why="Guided completions take the places of others in their group",
            fix=f"Set it from 1 to {sampling.group_size}",
        )
    if bounds is not None and not bounds[0] < guidance.passes_at <= bounds[1]:
        raise ConfigError(
            "model.guidance.passes_at",
            guidance.passes_at,
            rule=f"must be above {bounds[0]:g} and at most {bounds[1]:g}, the bounds of "
            "model.rewards",
            why="All groups, or none, would count as failed",
        )


# ---- mixing guided completions into their groups


def guided_sampling(sampling: Sampling, guidance: Guidance) -> Sampling:
    """Returns the settings of guided completions: those of the others, in smaller groups."""
    return replace(sampling, group_size=guidance.num_guided)


def replaced_rows(groups: Sequence[int], group_size: int, num_guided: int) -> torch.Tensor:
    """Returns the numbers of the rows that guided completions take, the last ones of each group.

    Args:
        groups: Numbers of the groups.
        group_size: Number of completions of a group, G.
        num_guided: Number of guided completions of a group.

    Returns:
        Numbers of rows, (len(groups) * num_guided,) int64.
    """
    places = torch.arange(group_size - num_guided, group_size)
    firsts = torch.tensor(list(groups), dtype=torch.long) * group_size
    return (firsts[:, None] + places).flatten()


def with_guided_rollouts(own: Rollouts, guided: Rollouts, rows: torch.Tensor) -> Rollouts:
    """Returns rollouts in which guided completions have taken the places of some rows.

    Args:
        own: Completions without hint, N rows.
        guided: Completions with hints, n rows.
        rows: Places of the guided ones, (n,) int64.
    """
    width = max(own.completion_ids.shape[1], guided.completion_ids.shape[1])

    def mixed(name: str) -> torch.Tensor:
        one, two = (
            pad(table, (0, width - table.shape[1]))
            for table in (getattr(own, name), getattr(guided, name))
        )
        return one.index_copy(0, rows, two)

    texts = list(own.texts)
    for row, text in zip(rows.tolist(), guided.texts, strict=True):
        texts[row] = text
    is_guided = own.finished.new_zeros(len(texts))
    is_guided[rows] = True
    return replace(
        own,
        completion_ids=mixed("completion_ids"),
        completion_mask=mixed("completion_mask"),
        logprobs=mixed("logprobs"),
        finished=own.finished.index_copy(0, rows, guided.finished),
        texts=tuple(texts),
        guided=is_guided,
    )


def with_guided_scores(own: Scores, guided: Scores, rows: torch.Tensor) -> Scores:
    """Returns scores in which those of guided completions have taken the places of some rows.

    The counts of outcomes stay those of the completions without hint.
    """

    def mixed(one: Sequence[float | None], two: Sequence[float | None]) -> list[float | None]:
        found = list(one)
        for row, score in zip(rows.tolist(), two, strict=True):
            found[row] = score
        return found

    parts = {name: mixed(part, guided.parts[name]) for name, part in own.parts.items()}
    return Scores(total=mixed(own.total, guided.total), parts=parts, outcomes=own.outcomes)
