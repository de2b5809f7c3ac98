"""Completions of an evaluation, of which only the verdicts matter."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.evaluation.store import row_of, write_rows
from steer_lightning.types import Completion, Problem


def write_rates(folder: Path, verdicts: dict[str, list[float | None]]) -> Path:
    """Writes completions of the base, by question, and of another arm, which are all right."""
    rows = []
    for problem, (question, of_it) in enumerate(verdicts.items()):
        done = Completion(text="x", question=question, answer="1", num_tokens=1, finished=True)
        place = {"benchmark": "b", "problem": problem}
        for sample, verdict in enumerate(of_it):
            rows.append(row_of({**place, "arm": "base", "sample": sample}, done, verdict, ""))
            rows.append(row_of({**place, "arm": "x", "sample": sample}, done, 1.0, ""))
    write_rows(folder / "completions.parquet", rows)
    return folder


class Letters:
    """Problems a, b and c, with solutions of four words."""

    def load(self) -> list[Problem]:
        columns = {"solution": "one two three four", "level": 1}
        return [Problem(question=q, answer="1", columns=columns) for q in "abc"]
