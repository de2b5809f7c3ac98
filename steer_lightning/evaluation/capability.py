"""Whether steering adds capability: pass@k against k, and who solves what the other never solves.

arXiv 2504.13837 asks whether reinforcement learning makes a model solve problems that its base can
not solve in any number of samples, or only makes it find sooner what the base finds, too. There,
the curves of pass@k cross: the trained model leads at small k and the base at large k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer_lightning.evaluation.arms import BASE
from steer_lightning.evaluation.at_k import pass_at_k
from steer_lightning.evaluation.intervals import (
    Values,
    difference,
    estimate,
    fields_of,
    resampled_means,
)
from steer_lightning.evaluation.store import Row
from steer_lightning.system.printable import aligned, one_line

EQUAL = 1e-12
"""Differences below this are rounding errors of a mean, not a lead."""

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The samples of one arm on one benchmark, counted by problem in ascending order of the ids."""

    problems: NDArray[np.int64]
    """Ids, (P,)."""
    judged: NDArray[np.int64]
    """Number of samples with a verdict, (P,)."""
    right: NDArray[np.int64]
    """Number of right samples, (P,)."""


def count(rows: Sequence[Row]) -> Counts:
    """Counts the samples of one arm on one benchmark; a verdict of 1 or more counts as right."""
    found: dict[int, list[int]] = {row["problem"]: [0, 0] for row in rows}
    for row in rows:
        if row["verdict"] is not None:
            found[row["problem"]][0] += 1
            found[row["problem"]][1] += row["verdict"] >= 1
    ids = sorted(found)
    judged, right = np.array([found[n] for n in ids], dtype=np.int64).reshape(-1, 2).T
    return Counts(problems=np.array(ids, dtype=np.int64), judged=judged, right=right)


_estimate = lru_cache(maxsize=None)(pass_at_k)  # few different counts, many problems


def values_at(counts: Counts, k: int) -> Values:
    """Returns pass@k of each problem, (P,); NaN where fewer than k samples have a verdict."""
    pairs = zip(counts.judged.tolist(), counts.right.tolist(), strict=True)
    return np.array([_estimate(n, c, k) if n >= k else math.nan for n, c in pairs])


def capability(rows: Sequence[Row], pass_at: Sequence[int]) -> list[Record]:
    """Compares the arms of each benchmark by pass@k for several k.

    Args:
        rows: Rows of an evaluation.
        pass_at: Numbers k of samples; those above an arm's number of samples are left out.

    Returns:
        A record for each benchmark and arm: `points`, pass@k by k with its interval and, but for
        the base, the paired difference to the base. If arm and base have equally many samples, also
        the keys of `crossing` and `solved`. Benchmarks without an arm that has two of these k are
        left out, since two points make a curve.
    """
    records = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        by_arm: dict[str, list[Row]] = {}
        for row in of_it:
            by_arm.setdefault(row["arm"], []).append(row)
        sizes = {arm: 1 + max(row["sample"] for row in found) for arm, found in by_arm.items()}
        if sum(k <= max(sizes.values()) for k in set(pass_at)) < 2:
            continue
        counts = {arm: count(found) for arm, found in by_arm.items()}
        questions = {row["problem"]: row["question"] for row in of_it}
        for arm, own in counts.items():
            record: Record = {"benchmark": benchmark, "arm": arm, "num_samples": sizes[arm]}
            record["num_problems"] = len(own.problems)
            ks = [k for k in sorted(set(pass_at)) if k <= sizes[arm]]
            base = None if arm == BASE else counts.get(BASE)
            record["points"] = [_point(k, own, base) for k in ks]
            if base is not None and sizes[arm] == sizes[BASE]:
                record |= crossing(own, base, sizes[arm]) | solved(own, base, questions)
            records.append(record)
    return records


def _point(k: int, own: Counts, base: Counts | None) -> Record:
    values = values_at(own, k)
    found = {"k": k, **fields_of("", estimate(values))}
    if base is not None:
        found |= fields_of("difference", difference(values, values_at(base, k)))
    return found


def crossing(own: Counts, base: Counts, num_samples: int) -> Record:
    """Finds where the curve of an arm crosses that of the base.

    Both curves are computed at every k from 1 to the number of samples, over the problems all of
    whose samples have a verdict in both arms.

    Returns:
        `crosses_at`, the smallest k at which the arm that led first is behind, or None; and
        `crosses_in`, the share of bootstrap resamples of the problems whose curves cross, None if
        there are fewer than two problems. A share far from 1 says that other problems of the same
        kind may show no crossing.
    """
    whole = (own.judged == num_samples) & (base.judged == num_samples)
    ks = range(1, num_samples + 1)
    gaps = np.stack([values_at(own, k)[whole] - values_at(base, k)[whole] for k in ks], axis=1)
    if not len(gaps):
        return {"crosses_at": None, "crosses_in": None}
    (at,) = _first_crossings(gaps.mean(0, keepdims=True))
    share = None
    if len(gaps) > 1:
        crossed = [_first_crossings(means) > 0 for means in resampled_means(gaps)]
        share = float(np.concatenate(crossed).mean())
    return {"crosses_at": int(at) or None, "crosses_in": share}


def _first_crossings(curves: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the first k at which each difference (R, K) has changed its sign, 0 without one."""
    signs = np.where(np.abs(curves) < EQUAL, 0.0, np.sign(curves))
    leaders = np.take_along_axis(signs, (signs != 0).argmax(1)[:, None], 1)
    behind = signs * leaders < 0
    return np.where(behind.any(1), behind.argmax(1) + 1, 0)


def solved(own: Counts, base: Counts, questions: dict[int, str]) -> Record:
    """Counts the problems that one arm solves in at least one of its samples and the other never.

    Problems without any verdict in one of the arms belong to none of the four groups.

    Args:
        own: Counts of the arm.
        base: Counts of the base.
        questions: Question of each problem.

    Returns:
        `num_both` and `num_neither`; `only_arm` and `only_base`, each a list of `problem`,
        `question` and `num_right`, the number of samples with which it is solved.
    """
    known = (own.judged > 0) & (base.judged > 0)
    by_own, by_base = known & (own.right > 0), known & (base.right > 0)

    def told(where: NDArray[np.bool_], counts: Counts) -> list[Record]:
        return [
            {"problem": problem, "question": questions[problem], "num_right": right}
            for problem, right in zip(
                counts.problems[where].tolist(), counts.right[where].tolist(), strict=True
            )
        ]

    return {
        "num_both": int((by_own & by_base).sum()),
        "num_neither": int((known & ~by_own & ~by_base).sum()),
        "only_arm": told(by_own & ~by_base, own),
        "only_base": told(by_base & ~by_own, base),
    }


def capability_as_text(records: Sequence[Record]) -> str:
    """Formats the curves for the console: a block for each benchmark, a line for each k."""
    blocks = []
    for benchmark in dict.fromkeys(record["benchmark"] for record in records):
        of_it = [record for record in records if record["benchmark"] == benchmark]
        lines = [f"{one_line(benchmark)}, pass@k", _table(of_it)]
        lines += [_verdict(record) for record in of_it if "crosses_at" in record]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _table(records: Sequence[Record]) -> str:
    head, columns = ["k"], []
    for record in records:
        by_k = {point["k"]: point for point in record["points"]}
        head.append(record["arm"])
        columns.append({k: _shown(point, "value", ".1f") for k, point in by_k.items()})
        if any("difference" in point for point in record["points"]):
            head.append("against base")
            columns.append({k: _shown(point, "difference", "+.1f") for k, point in by_k.items()})
    ks = sorted({k for column in columns for k in column})
    return aligned([head, *([str(k), *(column.get(k, "") for column in columns)] for k in ks)])


def _shown(point: Record, name: str, form: str) -> str:
    if point[name] is None:
        return "-"
    prefix = "" if name == "value" else f"{name}_"
    low, high = point[f"{prefix}low"], point[f"{prefix}high"]
    value = f"{100 * point[name]:{form}}"
    return value if low is None else f"{value} [{100 * low:{form}}, {100 * high:{form}}]"


def _verdict(record: Record) -> str:
    arm, at, share = one_line(record["arm"]), record["crosses_at"], record["crosses_in"]
    where = f"up to k = {record['num_samples']}"
    told = f"does not cross the base {where}" if at is None else f"crosses the base at k = {at}"
    told += "" if share is None else f" (crosses in {100 * share:.0f} % of resamples)"
    return (
        f"{arm}: {told}; problems solved by both: {record['num_both']}, only by {arm}: "
        f"{len(record['only_arm'])}, only by the base: {len(record['only_base'])}, by neither: "
        f"{record['num_neither']}"
    )
