"""Metrics over several samples per problem, as torchmetrics classes that join over processes.

Each metric keeps one number per problem, so that intervals and paired differences can be computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from steer_lightning.errors import ConfigError
from steer_lightning.system.collectives import together
from steer_lightning.system.float64 import finest_on


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion of a problem, as the metrics see it."""

    verdict: float | None
    """Verdict of the verifier: 1 for right, 0 for wrong, None if it can't be judged."""
    num_tokens: int
    finished: bool
    """Whether the completion ended by itself; False if it was cut off."""
    vote: int | None = None
    """Number of the answer, the same for equal answers of a problem; None without an answer."""
    is_incomparable: bool = False
    """Whether the sample is wrong because its answer can't be compared with the gold one."""
    followed: float | None = None
    """Share of the problem's verifiable instructions that it follows; None if there are none."""


def gather_tensors(own: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
    """Returns the tensors of all processes, for torchmetrics."""
    with together("the metrics") as has_others:
        return gather_all_tensors(own, group) if has_others else [own]


class PerProblem(Metric):
    """Base class of metrics with a number for each problem, and their mean as the result.

    A subclass computes the number from a problem's samples in `number`. Problems without a number
    are left out of the mean.
    """

    full_state_update = False
    problems: list[torch.Tensor]
    values: list[torch.Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_tensors, **kwargs})
        self.add_state("problems", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the number of one problem, or NaN if the samples do not allow one."""
        raise NotImplementedError

    def update(self, problem: int, samples: Sequence[Sample]) -> None:
        """Adds all samples of one problem.

        Args:
            problem: Id of the problem, the same in every process.
            samples: Samples of the problem, at least one.
        """
        device = self.device
        self.problems.append(torch.tensor([problem], device=device))
        dtype = finest_on(device)
        self.values.append(torch.tensor([self.number(samples)], dtype=dtype, device=device))

    def compute(self) -> torch.Tensor:
        """Returns the mean over problems, a float64 scalar; NaN if no problem has a number."""
        return torch.from_numpy(self._sorted()[1]).nanmean()

    def by_problem(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the ids of all processes' problems, ascending, and the metric's values."""
        if not self.problems:  # a process without problems must take part in joining, too
            self.problems.append(torch.empty(0, dtype=torch.int64, device=self.device))
            dtype = finest_on(self.device)
            self.values.append(torch.empty(0, dtype=dtype, device=self.device))
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._sorted()

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        problems = _joined(self.problems).astype(np.int64)
        values = _joined(self.values).astype(np.float64)
        order = np.argsort(problems, kind="stable")
        return problems[order], values[order]


def _joined(state: list[torch.Tensor] | torch.Tensor) -> NDArray[Any]:
    """Joins a list state, which is one tensor once it has been joined over processes."""
    parts = [state] if isinstance(state, torch.Tensor) else state
    return torch.cat(parts).cpu().numpy() if parts else np.empty(0)


class AvgAtK(PerProblem):
    """Computes avg@k, the share of right samples among those that could be judged."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the mean verdict of the judged samples."""
        scored = [sample.verdict for sample in samples if sample.verdict is not None]
        return sum(scored) / len(scored) if scored else math.nan


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Estimates pass@k of a problem, the probability that one of k samples is right.

    The estimate is 1 - C(n - c, k) / C(n, k) for n samples, c of them right (Chen et al. 2021,
    arXiv 2107.03374, eq. 1). It is the share of the subsets of k samples with a right one, and so
    unbiased, whereas 1 - (1 - c / n)^k is not. Whole numbers of any size are exact and their
    quotient is rounded once, so there is nothing that could overflow or cancel, at n = k = 256 or
    beyond.

    Args:
        num_samples: Number n of samples, at least k.
        num_right: Number c of right ones among them.
        k: Number of samples drawn, at least 1.
    """
    every = math.comb(num_samples, k)
    return (every - math.comb(num_samples - num_right, k)) / every


class PassAtK(PerProblem):
    """Computes pass@k by the unbiased estimator `pass_at_k`.

    Args:
        k: Number of samples drawn, at least 1. A problem with fewer judged samples has no number.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        ConfigError: If k is less than 1.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ConfigError("PassAtK.k", k, rule="must be at least 1")
        self.k = k

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the estimate of one problem; a verdict of 1 or more counts as right."""
        scored = [sample.verdict for sample in samples if sample.verdict is not None]
        n, c = len(scored), sum(verdict >= 1 for verdict in scored)
        if n < self.k:
            return math.nan
        return pass_at_k(n, c, self.k)


class MajAtK(PerProblem):
    """Computes maj@k: whether the most frequent answer is right (Wang et al., arXiv 2203.11171).

    Answers that are mathematically equal vote together, and are right if more than half of them
    are: 3:00 and 3:00 AM vote together, and one of them may be right. Of several answers with the
    same number of votes, the one given first counts. Samples without an answer have no vote; a
    problem without any vote is wrong.
    """

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns 1 or 0 for a right or wrong majority, or NaN if its answer can't be judged."""
        votes = Counter(sample.vote for sample in samples if sample.vote is not None)
        if not votes:
            return 0.0
        chosen = max(votes, key=lambda vote: votes[vote])  # the first one in case of a tie
        right = [x.verdict >= 1 for x in samples if x.vote == chosen and x.verdict is not None]
        return float(sum(right) > len(right) / 2) if right else math.nan


class CompletionLength(PerProblem):
    """Computes the mean length of a completion."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the mean length of a problem's samples, in tokens."""
        return sum(sample.num_tokens for sample in samples) / len(samples)


class CutOffShare(PerProblem):
    """Computes the share of completions that did not end by themselves."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples."""
        return sum(not sample.finished for sample in samples) / len(samples)


class FormatShare(PerProblem):
    """Computes the share of completions with an answer where the verifier looks for it."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples."""
        return sum(sample.vote is not None for sample in samples) / len(samples)


class SoftAccuracy(PerProblem):
    """Computes the share of a problem's instructions that are followed (arXiv 2505.14810)."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the mean share of a problem's samples; NaN without instructions."""
        shares = [sample.followed for sample in samples if sample.followed is not None]
        return sum(shares) / len(shares) if shares else math.nan


class HardAccuracy(PerProblem):
    """Computes the share of samples that follow all instructions (arXiv 2505.14810)."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples; NaN without instructions."""
        every = [sample.followed == 1 for sample in samples if sample.followed is not None]
        return sum(every) / len(every) if every else math.nan


class RightAndHard(PerProblem):
    """Computes the share of judged samples that are right and follow all instructions."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples; NaN without instructions or verdicts."""
        both = [
            sample.verdict >= 1 and sample.followed == 1
            for sample in samples
            if sample.verdict is not None and sample.followed is not None
        ]
        return sum(both) / len(both) if both else math.nan


class IncomparableShare(PerProblem):
    """Computes the share of completions that are wrong because answers can't be compared."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples."""
        return sum(sample.is_incomparable for sample in samples) / len(samples)


class UnjudgedShare(PerProblem):
    """Computes the share of completions without a verdict, which avg@k leaves out."""

    def number(self, samples: Sequence[Sample]) -> float:
        """Returns the share among a problem's samples."""
        return sum(sample.verdict is None for sample in samples) / len(samples)
