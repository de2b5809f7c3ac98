"""The answers of base and steered model in an evaluation, side by side for each problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from steer_lightning.results.report.damage import damaged
from steer_lightning.results.report.samples import BATCH, readable
from steer_lightning.results.report.texts import (
    MAX_COMPLETIONS,
    Group,
    as_completion,
    shortened,
    within_budget,
)
from steer_lightning.system.run_files import COMPLETIONS

SAMPLES = 2
"""Number of samples per problem and arm on the page: the first ones show how the arms differ."""
NEEDED = ("benchmark", "arm", "problem", "sample", "question", "answer", "completion", "verdict")


def read_answers(folder: Path, num_problems: int) -> dict[str, Any] | None:
    """Reads the completions of some problems by all arms, one batch of the file at a time.

    Args:
        folder: Folder of an evaluation.
        num_problems: Number of problems per benchmark, from the start.

    Returns:
        `rule`, the sentence that says which completions were chosen, and `groups`; None if there
        are no completions.

    Raises:
        ConfigError: If the file is damaged.
    """
    path = folder / COMPLETIONS
    if not path.exists():
        return None
    piles: dict[str, dict[int, Group]] = {}
    for row in _rows(path, num_problems):
        group = piles.setdefault(row["benchmark"], {}).setdefault(row["problem"], _new_group(row))
        if len(group["completions"]) < MAX_COMPLETIONS:
            found = as_completion(row, reward=row["verdict"], arm=row["arm"])
            group["completions"].append(found)
    groups = within_budget([list(pile.values()) for pile in piles.values()])
    if not groups:
        return None
    rule = (
        f"the first {num_problems} problems of each benchmark, with at most {SAMPLES} completions "
        "of each arm"
    )
    return {"rule": rule, "groups": groups}


def _rows(path: Path, num_problems: int) -> Iterator[dict[str, Any]]:
    with readable(path), pq.ParquetFile(path) as file:
        missing = sorted(set(NEEDED) - set(file.schema_arrow.names))
        if missing:
            raise damaged(path, f"It lacks the columns {', '.join(missing)}")
        for batch in file.iter_batches(batch_size=BATCH):
            wanted = pc.and_(
                pc.less(batch["problem"], num_problems), pc.less(batch["sample"], SAMPLES)
            )
            yield from batch.filter(wanted).to_pylist()


def _new_group(row: dict[str, Any]) -> Group:
    return {
        "benchmark": row["benchmark"],
        "prompt": shortened(str(row["question"])),
        "answer": str(row["answer"]),
        "completions": [],
    }
