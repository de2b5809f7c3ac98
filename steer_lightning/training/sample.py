"""The first half of a step: sampling and scoring completions, in one or several rounds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad

from steer_lightning.advantages import RLOO, has_signal
from steer_lightning.errors import ConfigError
from steer_lightning.losses import needs_of
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import while_sampling
from steer_lightning.rewards import MathReward, RewardSum, Scores, WeightedReward
from steer_lightning.rollout import RolloutEngine, Sampling, completions_of
from steer_lightning.rollout.completions import is_guided, longest_text
from steer_lightning.system.collectives import gather_objects, rank, world_size
from steer_lightning.training.guidance import (
    SEED,
    Guidance,
    guided_sampling,
    replaced_rows,
    with_guided_rollouts,
    with_guided_scores,
)
from steer_lightning.training.step import CompletionFigures, Sampled
from steer_lightning.types import Prompt, Rollouts


@dataclass(frozen=True, kw_only=True)
class DynamicSampling:
    """Replaces groups without signal by further prompts (DAPO, arXiv 2503.14476).

    Nothing can be learned from a group whose rewards are all equal. In each round, as many further
    prompts are sampled as there are such groups, until `data.batch_size` groups have signal or the
    number of rounds reaches its limit. The update learns from the groups with signal; at the limit,
    groups without signal fill the batch. The completions of all rounds are scored, counted and
    saved in `rollouts.parquet`, except those that guided ones replace (`Guidance`): their rewards
    are counted, and nothing is saved of them.

    Attributes:
        max_rounds: Maximum number of rounds of further prompts in a step; at least 1.
    """

    max_rounds: int | None = None

    def __post_init__(self) -> None:
        """Raises a ConfigError for a limit below 1."""
        if self.max_rounds is None or self.max_rounds < 1:
            raise ConfigError(
                "model.dynamic_sampling.max_rounds",
                self.max_rounds,
                rule="must be at least 1",
                why="If the model solved all prompts, or none, a step without a limit would "
                "never end",
                fix="Set it to 4, for example, or set model.dynamic_sampling: null",
            )


class Sampler:
    """Samples and scores the completions of prompts, such as those of each training step.

    Args:
        policy: Policy that answers.
        engine: Engine that has been set up with the policy.
        reward: Reward of the completions.
        sampling: Settings for sampling the completions.
        seed: Seed of the run.
        dynamic_sampling: Settings for replacing groups without signal; None replaces none.
        base_sampling: Function from `sampling` to the settings for sampling the base instead, with
            the vectors off, see `LossNeeds`; None samples the policy.
        guidance: Settings for answering failed prompts again with a hint; None does not.
        hints: Prompts with hints, by the id of the prompt without; others are not guided.
    """

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        reward: RewardSum,
        sampling: Sampling,
        *,
        seed: int = 0,
        dynamic_sampling: DynamicSampling | None = None,
        base_sampling: Callable[[Sampling], Sampling] | None = None,
        guidance: Guidance | None = None,
        hints: Mapping[int, Prompt] = {},  # never changed
    ) -> None:
        self.policy, self.engine, self.reward = policy, engine, reward
        self.sampling = base_sampling(sampling) if base_sampling else sampling
        self.seed, self.dynamic_sampling = seed, dynamic_sampling
        self.scale = 0.0 if base_sampling else 1.0
        self.guidance, self.hints = guidance, hints
        self._while_sampling = while_sampling(policy)

    def sample(self, prompts: Sequence[Prompt], step: int, data: Any = None) -> Sampled:
        """Samples and scores completions of the prompts, and of further ones with dynamic sampling.

        Args:
            prompts: B prompts, the same for all processes.
            step: Number of the training step.
            data: Data module of the run. It provides further prompts, and receives the rewards if
                its `learns_from_rewards` is true.
        """
        drawn = list(prompts)
        with self.policy.at_scale(self.scale):
            sampled = self._round(drawn, step)
        rounds = self.dynamic_sampling.max_rounds if self.dynamic_sampling else 0
        for _ in range(rounds or 0):
            missing = len(prompts) - int(has_signal(sampled.learned_rewards).sum())
            further = data.further_prompts(missing, drawn) if missing else []
            if not further:
                break
            drawn, sampled = [*drawn, *further], joined(sampled, self._round(further, step))
        if getattr(data, "learns_from_rewards", False):
            data.record(drawn, sampled.rewards)
        return sampled

    def sample_ahead(self, prompts: Sequence[Prompt], step: int) -> None:
        """Lets the engine begin with the completions of a later step, see `model.max_staleness`.

        Args:
            prompts: B prompts of that step.
            step: Number of that step.
        """
        own = list(prompts)[rank() :: world_size()]
        if own:
            engine: Any = self.engine  # `check_staleness` has found that it can
            with self.policy.at_scale(self.scale):
                engine.sample_ahead(own, self.sampling, seed=self.seed, step=step)

    def _round(self, prompts: Sequence[Prompt], step: int) -> Sampled:
        """Samples and scores G completions of each prompt, divided among the processes."""
        own = torch.arange(len(prompts))[rank() :: world_size()]
        asked = [prompts[k] for k in own]
        rollouts, scores, seconds = self._answer(asked, self.sampling, self.seed, step)
        rows = gather_figures(rollouts, scores, seconds)  # the rows of all processes
        sampled = Sampled(**vars(rows), rollouts=rollouts, scores=scores, own=own)
        return sampled if self.guidance is None else self._guided(prompts, sampled, step)

    def _guided(self, prompts: Sequence[Prompt], sampled: Sampled, step: int) -> Sampled:
        """Replaces completions of failed groups by guided ones; see `Guidance`."""
        assert self.guidance is not None
        failed = self.guidance.failed(sampled.rewards).tolist()  # the same on all processes
        chosen = {k for k, prompt in enumerate(prompts) if failed[k] and prompt.id in self.hints}
        if not chosen:
            return sampled
        groups = [b for b, k in enumerate(sampled.own.tolist()) if k in chosen]
        asked = [self.hints[sampled.rollouts.prompts[b].id] for b in groups]
        sampling = guided_sampling(self.sampling, self.guidance)
        found, found_scores, seconds = self._answer(asked, sampling, self.seed + SEED, step)
        rollouts, scores = sampled.rollouts, sampled.scores
        if groups:
            rows = replaced_rows(groups, rollouts.group_size, sampling.group_size)
            rollouts = with_guided_rollouts(rollouts, found, rows)
            scores = with_guided_scores(scores, found_scores, rows)
        figures = gather_figures(rollouts, scores, seconds)
        mixed = replace(
            figures,
            rewards=sampled.rewards,  # of the policy without hint, like parts and outcomes
            parts=sampled.parts,
            outcomes=sampled.outcomes,
            rollout_seconds=sampled.rollout_seconds + figures.rollout_seconds,
        )
        return Sampled(**vars(mixed), rollouts=rollouts, scores=scores, own=sampled.own)

    def _answer(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, step: int
    ) -> tuple[Rollouts, Scores, float]:
        """Samples and scores completions of this process's prompts, of which there may be none.

        Returns:
            Completions, their scores, and the duration of the rollout in seconds.
        """
        start = time.perf_counter()
        with closing(self.reward.start()) as scoring:  # while others are still sampled
            with self.policy.sharding.for_rollouts(self.policy.model), self._while_sampling():
                rollouts = no_rollouts(sampling.group_size)
                if prompts:
                    rollouts = self.engine.generate(
                        list(prompts),
                        sampling,
                        seed=seed,
                        step=step,
                        on_completion=scoring.add,
                    )
            seconds = time.perf_counter() - start
            return rollouts, scoring.result(completions_of(rollouts)), seconds  # None: unscored


def default_rewards(loss: Any) -> list[WeightedReward]:
    """Returns the default rewards: none if the loss reads completions of the base."""
    return [] if needs_of(loss).base_sampling else [WeightedReward(reward=MathReward())]


def default_advantage(loss: Any) -> Any:
    """Returns the default estimator; without scores, each completion counts 1."""
    return torch.ones_like if needs_of(loss).base_sampling else RLOO()


def advantages_of(
    advantage: Any, rewards: torch.Tensor, figures: CompletionFigures
) -> torch.Tensor:
    """Calls an estimator with the rewards, and with lengths and likelihoods if it reads them.

    Args:
        advantage: Estimator; see `Advantage`.
        rewards: Rewards of all completions (B, G), NaN where unscored.
        figures: The same completions.

    Returns:
        The advantages (B, G).
    """
    further = {}
    if getattr(advantage, "reads_completions", False):
        further = {"num_tokens": figures.num_tokens, "logprob_sums": figures.logprob_sums}
    found: torch.Tensor = advantage(rewards, **further)
    return found


def no_rollouts(group_size: int) -> Rollouts:
    """Returns the rollouts of a process without prompts in a round."""
    nothing = torch.zeros(0, 1)
    return Rollouts(
        prompts=(),
        group_size=group_size,
        completion_ids=nothing.long(),
        completion_mask=nothing.bool(),
        logprobs=nothing,
        finished=nothing[:, 0].bool(),
        texts=(),
    )


def who_takes_part(sampled: Sampled, num_groups: int, mask_overlong: bool) -> torch.Tensor:
    """Selects the completions from which the update learns.

    Completions that could not be scored are left out, unless the run has no rewards.

    Args:
        sampled: Completions of B prompts, or of more.
        num_groups: Number B of groups to select: first those with signal, then the others, both in
            the order of the prompts.
        mask_overlong: Whether completions that were cut off are left out.

    Returns:
        Whether each completion takes part, (number of prompts, G) bool.
    """
    signal = has_signal(sampled.learned_rewards)
    order = torch.sort(signal.int(), descending=True, stable=True).indices
    chosen = torch.isin(torch.arange(len(signal)), order[:num_groups])
    takes_part = chosen[:, None].expand_as(sampled.finished)
    if sampled.parts:
        takes_part = takes_part & ~sampled.learned_rewards.isnan()
    return takes_part & sampled.finished if mask_overlong else takes_part


# ---- joining the tables of processes and rounds


def gather_figures(rollouts: Rollouts, scores: Scores, rollout_seconds: float) -> CompletionFigures:
    """Joins the rows of all processes: a few numbers per completion, no text.

    Args:
        rollouts: Completions of this process.
        scores: Scores of the same completions.
        rollout_seconds: Duration of the rollout on this process, in seconds.

    Returns:
        Rows of all prompts in the order of the batch, the same on every process.
    """
    size = rollouts.group_size
    shape = (len(rollouts.prompts), size)  # a process may have no prompt
    own = {
        "rewards": as_matrix(scores.total, size).float(),
        "guided": is_guided(rollouts).view(shape),
        "num_tokens": rollouts.completion_mask.sum(1).view(shape),
        "finished": rollouts.finished.view(shape),
        "logprob_sums": rollouts.logprobs.double().sum(1).view(shape),
    }
    own_parts = {name: as_matrix(part, size) for name, part in scores.parts.items()}
    found = gather_objects(
        (own, own_parts, scores.outcomes, longest_text(rollouts), rollout_seconds)
    )
    tables, parts, outcomes, longest_texts, seconds = zip(*found, strict=True)
    joint = {name: interleave([table[name] for table in tables]) for name in own}
    return CompletionFigures(
        **joint,
        learned_rewards=joint["rewards"],
        parts={name: interleave([table[name] for table in parts]) for name in own_parts},
        outcomes=_added_up(outcomes),
        longest=max(longest_texts),
        rollout_seconds=max(seconds),
    )


def as_matrix(scores: Sequence[float | None], group_size: int) -> torch.Tensor:
    """Returns N scores as a tensor (B, G) float64, with NaN for None."""
    values = [float("nan") if score is None else score for score in scores]
    return torch.tensor(values, dtype=torch.float64).view(len(scores) // group_size, group_size)


def interleave(shares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Joins tables of every n-th prompt, one row per prompt, in the order of the prompts."""
    joined = shares[0].new_empty(sum(map(len, shares)), *shares[0].shape[1:])
    for number, share in enumerate(shares):
        joined[number :: world_size()] = share
    return joined


def joined(one: Sampled, two: Sampled) -> Sampled:
    """Returns the completions of two rounds, those of the first round first."""
    tables = {
        name: torch.cat([getattr(one, name), getattr(two, name)])
        for name in (
            *("rewards", "learned_rewards", "guided"),
            *("num_tokens", "finished", "logprob_sums"),
        )
    }
    return Sampled(
        **tables,
        parts={name: torch.cat([part, two.parts[name]]) for name, part in one.parts.items()},
        outcomes=_added_up([one.outcomes, two.outcomes]),
        longest=max(one.longest, two.longest),
        rollout_seconds=one.rollout_seconds + two.rollout_seconds,
        rollouts=_joined_rollouts(one.rollouts, two.rollouts),
        scores=Scores(
            total=one.scores.total + two.scores.total,
            parts={name: x + two.scores.parts[name] for name, x in one.scores.parts.items()},
            outcomes=_added_up([one.scores.outcomes, two.scores.outcomes]),
        ),
        own=torch.cat([one.own, two.own + len(one.rewards)]),
    )


def _joined_rollouts(one: Rollouts, two: Rollouts) -> Rollouts:
    """Joins two rollouts, and pads their completions to the same length."""
    width = max(one.completion_ids.shape[1], two.completion_ids.shape[1])

    def together(name: str) -> torch.Tensor:
        tables = [getattr(rollouts, name) for rollouts in (one, two)]
        return torch.cat([pad(table, (0, width - table.shape[1])) for table in tables])

    has_guided = one.guided is not None or two.guided is not None
    return Rollouts(
        prompts=one.prompts + two.prompts,
        group_size=one.group_size,
        completion_ids=together("completion_ids"),
        completion_mask=together("completion_mask"),
        logprobs=together("logprobs"),
        finished=torch.cat([one.finished, two.finished]),
        texts=one.texts + two.texts,
        guided=torch.cat([is_guided(one), is_guided(two)]) if has_guided else None,
    )


def _added_up(every: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {name: Counter() for name in every[0]}
    for outcomes in every:
        for name, counts in outcomes.items():
            found[name].update(dict.fromkeys(counts, 0) | dict(counts))
    return {name: dict(counts) for name, counts in found.items()}
