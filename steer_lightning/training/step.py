"""What a training step did, over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from steer_lightning.rewards import Scores
from steer_lightning.system.collectives import gather_objects, world_size
from steer_lightning.types import Rollouts


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A few numbers of each completion of a step's batch: B prompts, G completions each."""

    rewards: torch.Tensor
    """(B, G) float32, NaN where unscored."""
    parts: Mapping[str, torch.Tensor]
    """(B, G) float64 of each reward by name, NaN where unscored."""
    outcomes: Mapping[str, Mapping[str, int]]
    """Of each reward: how many completions came to what."""
    num_tokens: torch.Tensor
    """(B, G) int64, tokens of each completion."""
    finished: torch.Tensor
    """(B, G) bool, True where it ended by itself."""
    logprob_sums: torch.Tensor
    """(B, G) float64, log-probability of each completion in nats."""
    rollout_seconds: float
    """Of the slowest process."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a batch of rollouts did to the vectors: one optimizer step, or several."""

    loss: float
    """Their mean."""
    loss_metrics: Mapping[str, float]
    """What the loss itself reports; means over the steps."""
    mismatch: Mapping[str, float]
    """`mean` and `max` difference of the sampler's log-probabilities from the trainer's, before the
    first step, in nats; empty if no row had an advantage."""
    gradient_norm: float
    """Mean norm before clipping, in the units of the parameter; NaN if all steps were skipped."""
    skipped: bool
    """Whether one was, because its loss or gradient were not finite."""
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Sampled(Rows):
    """The completions of B prompts, with their rewards."""

    rollouts: Rollouts
    """Of this process: its share of the B prompts, see `own`."""
    scores: Scores
    """Of the same completions."""
    own: torch.Tensor
    """(b,) int64, which of the B prompts they are; all of them, if there is one process."""

    def join(self, later: Sampled) -> Sampled:
        """The completions of further prompts behind these."""
        tables = {
            name: torch.cat([getattr(self, name), getattr(later, name)])
            for name in ("rewards", "num_tokens", "finished", "logprob_sums")
        }
        return Sampled(
            **tables,
            parts={name: torch.cat([part, later.parts[name]]) for name, part in self.parts.items()},
            outcomes=_added_up([self.outcomes, later.outcomes]),
            rollout_seconds=self.rollout_seconds + later.rollout_seconds,
            rollouts=_joined(self.rollouts, later.rollouts),
            scores=Scores(
                total=self.scores.total + later.scores.total,
                parts={name: x + later.scores.parts[name] for name, x in self.scores.parts.items()},
                outcomes=_added_up([self.scores.outcomes, later.scores.outcomes]),
            ),
            own=torch.cat([self.own, later.own + len(self.rewards)]),
        )


@dataclass(frozen=True, kw_only=True)
class Step(Sampled):
    """What the last training step did; read by callbacks."""

    advantages: torch.Tensor
    """(B, G) float32."""
    takes_part: torch.Tensor
    """(B, G) bool, whether the update is of this completion, too."""
    kl: torch.Tensor | None
    """(B, G) float32, nats of each completion's KL to the base, where the reward takes it in."""
    update: Update
    seconds: float


def _joined(one: Rollouts, two: Rollouts) -> Rollouts:
    """Completions padded to the same length."""
    width = max(one.completion_ids.shape[1], two.completion_ids.shape[1])

    def together(name: str) -> torch.Tensor:
        tables = [getattr(rollouts, name) for rollouts in (one, two)]
        return torch.cat([pad(table, (0, width - table.shape[1])) for table in tables])

    return Rollouts(
        prompts=one.prompts + two.prompts,
        group_size=one.group_size,
        completion_ids=together("completion_ids"),
        completion_mask=together("completion_mask"),
        logprobs=together("logprobs"),
        finished=torch.cat([one.finished, two.finished]),
        texts=one.texts + two.texts,
    )


def as_matrix(scores: Sequence[float | None], group_size: int) -> torch.Tensor:
    """N scores as (B, G) float64, NaN for None."""
    values = [float("nan") if score is None else score for score in scores]
    return torch.tensor(values, dtype=torch.float64).view(len(scores) // group_size, group_size)


def gather_rows(rollouts: Rollouts, scores: Scores, rollout_seconds: float) -> Rows:
    """Joins what each process knows of its own rows: a few numbers a completion, no text.

    Args:
        rollouts: Of this process.
        scores: Of the same completions.
        rollout_seconds: That they took.

    Returns:
        The same on every process, in the order of the batch's prompts.
    """
    size = rollouts.group_size
    shape = (len(rollouts.prompts), size)  # there may be none
    own = {
        "rewards": as_matrix(scores.total, size).float(),
        "num_tokens": rollouts.num_tokens.view(shape),
        "finished": rollouts.finished.view(shape),
        "logprob_sums": rollouts.logprobs.double().sum(1).view(shape),
    }
    own_parts = {name: as_matrix(part, size) for name, part in scores.parts.items()}
    found = gather_objects((own, own_parts, scores.outcomes, rollout_seconds))
    tables, parts, outcomes, seconds = zip(*found, strict=True)
    return Rows(
        **{name: interleave([table[name] for table in tables]) for name in own},
        parts={name: interleave([table[name] for table in parts]) for name in own_parts},
        outcomes=_added_up(outcomes),
        rollout_seconds=max(seconds),
    )


def interleave(shares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Joins shares, each of every n-th prompt, one row a prompt, in the prompts' order."""
    joined = shares[0].new_empty(sum(map(len, shares)), *shares[0].shape[1:])
    for number, share in enumerate(shares):
        joined[number :: world_size()] = share
    return joined


def _added_up(every: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {name: Counter() for name in every[0]}
    for outcomes in every:
        for name, counts in outcomes.items():
            found[name].update(dict.fromkeys(counts, 0) | dict(counts))
    return {name: dict(counts) for name, counts in found.items()}
