"""What refined answers cost, and what as many plain samples as cost the same are worth.

A refined completion passes its text through the base several times, forwards and backwards. With C
for the tokens that go through the base for a refined completion, both ways, divided by those for a
plain one, round(C), at least 1, plain samples cost about as much, and can do two things without
knowing the right answer: vote (maj@k), or let the one with the highest score win, by the objective
that the refinement raises. Both are measured on the samples of the arm without the refinement, in
blocks of k, which also drops a remainder of fewer than k.

A pass backwards through frozen weights counts like one forwards, as it multiplies by each weight
once. So does a pass that scores a plain sample: round(C / (1 + passes)) scored samples cost as
much. Sampling at temperature 1 without truncation yields the log-likelihood, and other sampling
takes a pass for it; the reward of steered arms takes another one, of the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from steer_lightning.evaluation.arms import SCORE_PASSES
from steer_lightning.evaluation.at_k import AvgAtK, MajAtK, Sample
from steer_lightning.evaluation.intervals import Values, difference, estimate, fields_of
from steer_lightning.evaluation.refinement import Refinement
from steer_lightning.evaluation.results import Voting, samples_of
from steer_lightning.evaluation.store import BACKWARD, FORWARD, PLAIN_SCORE, SCORE, SECONDS, Row
from steer_lightning.system.printable import aligned, one_line

Record = dict[str, Any]

NUMBERS = {"vote": "num_plain", "best": "num_scored"}
"""Entries of a record with the number of plain samples that take part."""

_FACTS = ("arm", "unrefined", SCORE_PASSES, *(field.name for field in fields(Refinement)))
"""Entries of a record that are not measured."""


def refinement_records(
    rows: Sequence[Row], refined: Sequence[Mapping[str, Any]], voting: Voting | None
) -> list[Record]:
    """Compares refined arms with plain samples at equal cost.

    Args:
        rows: Rows of an evaluation.
        refined: Its refined arms: `arm`, `unrefined` and the settings of each, as in
            `further_facts`, or earlier records of them. An arm is left out on benchmarks for which
            it has no rows.
        voting: How samples vote; None if they have no votes.

    Returns:
        A record for each benchmark and refined arm: `arm`, `unrefined` and the settings; the means
        over completions of the columns of cost, those of the unrefined arm as `plain_seconds` and
        `plain_forward_tokens`; `changed`, the share of completions that the refinement changed;
        `cost`, C; `num_plain` and `num_scored`, the numbers k of plain samples that vote or have
        scores; and as estimates over problems `value`, the accuracy, `vote` and `best`, the
        accuracy of plain samples, and `over_vote` and `over_best`, the paired differences. What
        needs more samples than there are is null.
    """
    arms = {told["arm"]: {name: told[name] for name in _FACTS} for told in refined}
    records = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        for facts in arms.values():
            own = [row for row in of_it if row["arm"] == facts["arm"]]
            plain = [row for row in of_it if row["arm"] == facts["unrefined"]]
            if not own or not plain:
                continue
            record: Record = {"benchmark": benchmark} | facts | _costs(own, plain)
            for name, passes in (("num_plain", 0), ("num_scored", facts[SCORE_PASSES])):
                record[name] = max(1, round(record["cost"] / (1 + passes)))
            records.append(record | _accuracies(own, plain, voting, record))
    return records


def _costs(own: Sequence[Row], plain: Sequence[Row]) -> Record:
    def mean(rows: Sequence[Row], column: str) -> float:
        return float(np.mean([row[column] for row in rows]))

    found: Record = {name: mean(own, name) for name in (FORWARD, BACKWARD, SECONDS)}
    found |= {f"plain_{name}": mean(plain, name) for name in (FORWARD, SECONDS)}
    found |= {name: mean(own, name) for name in (PLAIN_SCORE, SCORE)}
    found["changed"] = sum(row[SCORE] > row[PLAIN_SCORE] for row in own) / len(own)
    found["cost"] = (found[FORWARD] + found[BACKWARD]) / found[f"plain_{FORWARD}"]
    return found


def _accuracies(
    own: Sequence[Row], plain: Sequence[Row], voting: Voting | None, record: Record
) -> Record:
    samples = samples_of(plain, voting)
    scores: dict[int, list[float]] = {}
    for row in sorted(own, key=lambda row: (row["problem"], row["sample"])):
        scores.setdefault(row["problem"], []).append(row[PLAIN_SCORE])

    def vote(problem: int, block: range) -> float:
        return MajAtK().number([samples[problem][n] for n in block])

    def best(problem: int, block: range) -> float:
        verdict = samples[problem][max(block, key=lambda n: scores[problem][n])].verdict
        return math.nan if verdict is None else verdict

    refined = samples_of(own, None)
    right = np.array([AvgAtK().number(found) for found in refined.values()])
    found = fields_of("", estimate(right))
    for name, number in (("vote", vote), ("best", best)):
        known = voting is not None or name == "best"
        values = (
            _in_blocks(samples, record[NUMBERS[name]], number)
            if known
            else np.full(len(right), math.nan)
        )
        found |= fields_of(name, estimate(values))
        found |= fields_of(f"over_{name}", difference(right, values))
    return found


def _in_blocks(
    samples: dict[int, list[Sample]], k: int, number: Callable[[int, range], float]
) -> Values:
    """Returns the mean of a number over the blocks of k samples of each problem, (P,); NaN without.

    A block for which the number is NaN is left out.
    """
    found = []
    for problem, of_it in samples.items():
        starts = range(0, len(of_it) - k + 1, k)
        values = np.array([number(problem, range(start, start + k)) for start in starts])
        kept = values[~np.isnan(values)]
        found.append(float(kept.mean()) if len(kept) else math.nan)
    return np.array(found)


def refinements_as_text(records: Sequence[Record]) -> str:
    """Formats the records for the console: a block for each benchmark, a line for each arm."""
    blocks = []
    head = ["", "avg", "changed", "forwards", "backwards", "ms (plain)", "cost"]
    head += ["vote", "against vote", "best score", "against best"]
    for benchmark in dict.fromkeys(record["benchmark"] for record in records):
        of_it = [record for record in records if record["benchmark"] == benchmark]
        title = f"{one_line(benchmark)}, refined answers and plain samples at equal cost in tokens"
        blocks.append(f"{title}\n{aligned([head, *map(_line, of_it)])}")
    return "\n\n".join(blocks)


def _line(record: Record) -> list[str]:
    line = [record["arm"], _shown(record, "value", ".1f"), f"{100 * record['changed']:.1f}"]
    line += [f"{record[name]:.0f}" for name in (FORWARD, BACKWARD)]
    line += [f"{1000 * record[SECONDS]:.0f} ({1000 * record[f'plain_{SECONDS}']:.0f})"]
    line += [f"{record['cost']:.1f}"]
    for name in NUMBERS:
        shown = _shown(record, name, ".1f")
        line += [f"of {record[NUMBERS[name]]}: {shown}", _shown(record, f"over_{name}", "+.1f")]
    return line


def _shown(record: Record, name: str, form: str) -> str:
    if record[name] is None:
        return "-"
    prefix = "" if name == "value" else f"{name}_"
    low, high = record[f"{prefix}low"], record[f"{prefix}high"]
    value = f"{100 * record[name]:{form}}"
    return value if low is None else f"{value} [{100 * low:{form}}, {100 * high:{form}}]"
