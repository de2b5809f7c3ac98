"""The figures of an evaluation: from completions with verdicts to metrics with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steer_lightning.evaluation.arms import BASE
from steer_lightning.evaluation.at_k import (
    AvgAtK,
    CompletionLength,
    CutOffShare,
    FormatShare,
    HardAccuracy,
    IncomparableShare,
    MajAtK,
    PassAtK,
    PerProblem,
    RightAndHard,
    Sample,
    SoftAccuracy,
    UnjudgedShare,
)
from steer_lightning.evaluation.intervals import Values, difference, estimate, fields_of
from steer_lightning.evaluation.store import FOLLOWED, OUTCOME, Row
from steer_lightning.evaluation.votes import Compare, number_answers
from steer_lightning.rewards.answer_in_text import AnswerIn, find_answer
from steer_lightning.rewards.base import INCOMPARABLE
from steer_lightning.system.collectives import rank, world_size
from steer_lightning.system.printable import aligned, one_line


@dataclass(frozen=True, kw_only=True)
class Voting:
    """Defines how samples vote: by the answers that a `MathReward` finds in them.

    Attributes:
        answer_in: Place in which the reward looks for an answer.
        compare: Function that decides which answers are equal.
    """

    answer_in: AnswerIn
    compare: Compare


def samples_of(rows: Sequence[Row], voting: Voting | None) -> dict[int, list[Sample]]:
    """Groups the samples by problem, in the order of their numbers.

    Args:
        rows: Rows of one benchmark and one arm.
        voting: How samples vote; None if the verdicts are not from a `MathReward`, so that no
            sample has a vote.
    """
    grouped: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["problem"], row["sample"])):
        grouped.setdefault(row["problem"], []).append(row)
    votes: Sequence[Sequence[int | None]] = [[None] * len(group) for group in grouped.values()]
    if voting is not None:
        place = voting.answer_in
        answers = [[find_answer(x["completion"], place) for x in g] for g in grouped.values()]
        alone = [_unjudged(*pair) for pair in zip(answers, grouped.values(), strict=True)]
        votes = number_answers(answers, voting.compare, alone)
    return {
        problem: [
            Sample(
                verdict=row["verdict"],
                num_tokens=row["num_tokens"],
                finished=row["finished"],
                vote=vote,
                is_incomparable=row.get(OUTCOME) == INCOMPARABLE,
                followed=row.get(FOLLOWED),
            )
            for row, vote in zip(group, found, strict=True)
        ]
        for (problem, group), found in zip(grouped.items(), votes, strict=True)
    }


def _unjudged(answers: Sequence[str | None], rows: Sequence[Row]) -> set[str]:
    """Returns the answers of a problem that could never be compared with the gold answer."""
    pairs = [(answer, row) for answer, row in zip(answers, rows, strict=True) if answer]
    judged = {
        answer
        for answer, row in pairs
        if row["verdict"] is not None and row.get(OUTCOME) != INCOMPARABLE
    }
    return {answer for answer, _ in pairs} - judged


def metrics_for(num_samples: int, pass_at: Sequence[int], votes: bool) -> dict[str, PerProblem]:
    """Makes the metrics, by names such as `avg@32`.

    Args:
        num_samples: Number of samples of each problem.
        pass_at: Numbers k for which to compute pass@k; those above `num_samples` are left out.
        votes: Whether samples have votes, so that maj@k and the format can be computed.
    """
    found: dict[str, PerProblem] = {f"avg@{num_samples}": AvgAtK()}
    for k in pass_at:
        if 1 < k <= num_samples:
            found[f"pass@{k}"] = PassAtK(k)
    if votes and num_samples > 1:
        found[f"maj@{num_samples}"] = MajAtK()
    found |= {"length": CompletionLength(), "cut off": CutOffShare()}
    found |= {"format": FormatShare()} if votes else {}
    found |= {"hard": HardAccuracy(), "soft": SoftAccuracy(), "right and hard": RightAndHard()}
    return found | {"incomparable": IncomparableShare(), "unjudged": UnjudgedShare()}


APART = ("incomparable", "unjudged")
"""Metrics that are shown unless they are 0 throughout."""

INSTRUCTED = ("hard", "soft", "right and hard")
"""Metrics of benchmarks whose problems have verifiable instructions."""


def measure(samples: dict[int, list[Sample]], metrics: dict[str, PerProblem]) -> dict[str, Values]:
    """Returns the values of each metric over all processes, by problem in ascending order."""
    for problem, found in samples.items():
        for metric in metrics.values():
            metric.update(problem, found)
    return {name: metric.by_problem()[1] for name, metric in metrics.items()}


def table_rows(benchmark: str, values: dict[str, dict[str, Values]]) -> list[dict[str, Any]]:
    """Makes a row for each arm and metric of a benchmark, with the paired difference to the base.

    Args:
        benchmark: Name of the benchmark.
        values: Values by arm, then by metric; (P,) each, for the same problems in the same order.
    """
    rows = []
    silent = {
        metric
        for metric in APART
        if not any(np.any(found.get(metric, 0.0)) for found in values.values())
    } | {
        metric
        for metric in INSTRUCTED
        if all(np.isnan(found.get(metric, np.nan)).all() for found in values.values())
    }
    for arm, found in values.items():
        for metric, numbers in found.items():
            if metric in silent:
                continue
            row: dict[str, Any] = {"benchmark": benchmark, "arm": arm, "metric": metric}
            row |= {"num_problems": len(numbers), "num_without": int(np.isnan(numbers).sum())}
            row |= fields_of("", estimate(numbers))
            base = values.get(BASE, {}).get(_twin(metric, values.get(BASE, {})))
            if arm != BASE and base is not None:
                row |= fields_of("difference", difference(numbers, base))
            rows.append(row)
    return rows


def figures(
    rows: Sequence[Row], voting: Voting | None, pass_at: Sequence[int] | None
) -> list[dict[str, Any]]:
    """Makes the table of an evaluation over all processes, each of which has all rows.

    Args:
        rows: Rows of an evaluation.
        voting: How samples vote, see `samples_of`.
        pass_at: Numbers k for which to compute pass@k; None takes the number of samples.
    """
    found = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        values = {}
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        for arm in dict.fromkeys(row["arm"] for row in of_it):
            of_arm = [row for row in of_it if row["arm"] == arm]
            # each process adds its share of the problems, and torchmetrics joins the shares
            own = [row for row in of_arm if row["problem"] % world_size() == rank()]
            size = 1 + max(row["sample"] for row in of_arm)
            metrics = metrics_for(size, [size] if pass_at is None else pass_at, voting is not None)
            values[arm] = measure(samples_of(own, voting), metrics)
        found += table_rows(benchmark, values)
    return found


def _twin(metric: str, base: dict[str, Values]) -> str:
    """Names the base's corresponding metric, such as avg@1 of a greedy base for avg@32."""
    kind = metric.split("@")[0]
    if metric in base or kind != "avg":
        return metric
    return next((name for name in base if name.startswith("avg@")), metric)


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the table for the console: a block for each benchmark, a line for each arm."""
    blocks = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        title = f"{one_line(benchmark)} ({of_it[0]['num_problems']} problems)"
        blocks.append(f"{title}\n{_block(of_it)}")
    return "\n\n".join(blocks)


KINDS = ("avg", "pass", "maj", "length", "cut off", "format", *INSTRUCTED, *APART)
"""Kinds of metrics, in the order of the table's columns."""


def _block(rows: Sequence[dict[str, Any]]) -> str:
    names = dict.fromkeys(row["metric"] for row in rows)
    metrics = sorted(names, key=lambda metric: KINDS.index(metric.split("@")[0]))
    passes = [metric for metric in metrics if metric.startswith("pass@")]
    smaller = sorted(passes, key=lambda metric: int(metric.split("@")[1]))[:-1]
    metrics = [metric for metric in metrics if metric not in smaller]  # the curve has them all
    means = [metric for metric in metrics if metric.startswith("avg@")]  # two with a greedy base
    lines = [["", *means, "against base", *metrics[len(means) :]]]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = {row["metric"]: row for row in rows if row["arm"] == arm}
        cells = [_cell(found.get(metric), metric) for metric in metrics]
        own = next((found[metric] for metric in means if metric in found), None)
        cells.insert(len(means), _difference(own))
        lines.append([arm, *cells])
    return aligned(lines)


def _cell(row: dict[str, Any] | None, metric: str) -> str:
    if row is None or row["value"] is None:
        return "-"
    value, low, high = (row[key] for key in ("value", "low", "high"))
    factor = 1 if metric == "length" else 100
    shown = f"{factor * value:.1f}"
    return shown if low is None else f"{shown} [{factor * low:.1f}, {factor * high:.1f}]"


def _difference(row: dict[str, Any] | None) -> str:
    if row is None or row.get("difference") is None:
        return ""
    if row["difference_low"] is None:
        return f"{100 * row['difference']:+.1f}"
    low, high = (100 * row[f"difference_{side}"] for side in ("low", "high"))
    return f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
