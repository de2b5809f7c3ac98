"""Chooses a run's completions for its page: a bounded number, by a rule that the page states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steer_lightning.results.report.damage import damaged
from steer_lightning.results.report.texts import (
    MAX_COMPLETIONS,
    Group,
    as_completion,
    shortened,
    some_of,
    within_budget,
)
from steer_lightning.system.run_files import ROLLOUT_PARTS, ROLLOUTS, rollout_parts

NEEDED = ("step", "prompt_id", "sample", "prompt", "completion", "reward", "advantage")
BATCH = 1024
"""Number of rows in memory at once."""


@dataclass(frozen=True)
class _Part:
    """Row groups of a file that contain rows of one step, and possibly of others."""

    file: pq.ParquetFile
    path: Path
    row_groups: tuple[int, ...]

    def count(self, step: int) -> int:
        """Counts the rows of a step."""
        steps = self.file.read_row_groups(list(self.row_groups), columns=["step"])["step"]
        return int(pc.sum(pc.equal(steps, step)).as_py())


def read_training(
    stages: Sequence[tuple[Path, float]], num_steps: int, num_prompts: int
) -> dict[str, Any] | None:
    """Reads the completions of some steps of a run; only those steps are read from the disk.

    Args:
        stages: Folders of the run, oldest first, each with the step from which the next folder
            repeats its steps.
        num_steps: Number of steps to show, evenly spaced, including the first and the last.
        num_prompts: Number of prompts per step, from the start of the batch; fewer if their text
            exceeds the budget.

    Returns:
        `rule`, the sentence that says which completions were chosen, and `groups`; None if there
        are no completions.

    Raises:
        ConfigError: If a file is damaged.
    """
    with ExitStack() as files:
        index: dict[int, list[_Part]] = {}
        for folder, end in stages:
            for step, part in _parts_of(folder, files):
                if step < end:
                    index.setdefault(step, []).append(part)
        chosen = evenly(sorted(index), num_steps)
        if not chosen:
            return None
        found = [list(_groups(step, index[step], num_prompts)) for step in chosen]
        rows = sum(part.count(chosen[0]) for part in index[chosen[0]])
    groups = within_budget(found)
    return {"rule": _rule(groups, chosen, len(index), rows), "groups": groups}


def evenly(items: Sequence[int], most: int) -> list[int]:
    """Returns at most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[k * (len(items) - 1) // (most - 1)] for k in range(most)]


def _rule(groups: Sequence[Group], chosen: Sequence[int], steps: int, rows: int) -> str:
    size = max(group["num_completions"] for group in groups)
    prompts = max(sum(group["step"] == step for group in groups) for step in chosen)
    spaced = ", evenly spaced" if len(chosen) < steps else ""
    total = max(prompts, rows // size)
    first = "the first " if prompts < total else ""
    return (
        f"{some_of(len(chosen), steps, 'step')}{spaced}; for each step, {first}"
        f"{some_of(prompts, total, 'prompt')} of the batch with "
        f"{some_of(min(size, MAX_COMPLETIONS), size, 'completion')}"
    )


def _parts_of(folder: Path, files: ExitStack) -> Iterator[tuple[int, _Part]]:
    """Yields the steps of a folder with their location: one file, or one per step and process."""
    whole = folder / ROLLOUTS
    paths = [whole] if whole.exists() else rollout_parts(folder / ROLLOUT_PARTS)
    for path in paths:
        with readable(path):
            file = files.enter_context(pq.ParquetFile(path))
            missing = sorted(set(NEEDED) - set(file.schema_arrow.names))
            if missing:
                raise damaged(path, f"It lacks the columns {', '.join(missing)}")
            places: dict[int, list[int]] = {}
            for k in range(file.num_row_groups):
                for step in _steps_in(file, k):
                    places.setdefault(step, []).append(k)
        for step, row_groups in places.items():
            yield step, _Part(file, path, tuple(row_groups))


def _steps_in(file: pq.ParquetFile, row_group: int) -> list[int]:
    """Returns the steps of a row group, from its statistics if it has one step, as is usual."""
    column = file.schema_arrow.names.index("step")
    found = file.metadata.row_group(row_group).column(column).statistics
    if found is not None and found.has_min_max and found.min == found.max:
        return [found.min]
    steps = file.read_row_group(row_group, columns=["step"])["step"].unique()
    return sorted(steps.to_pylist())


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns Arrow's errors about a damaged file into an error that names the file."""
    try:
        yield
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def _groups(step: int, parts: Sequence[_Part], most: int) -> Iterator[Group]:
    """Yields the first prompts of a step, each with its completions."""
    group: Group | None = None
    count = 0
    for row in _rows(step, parts):
        if group is None or row["sample"] == 0 or row["prompt_id"] != group["prompt_id"]:
            if group is not None:
                yield group
            if count == most:
                return
            count += 1
            group = _new_group(row)
        group["num_completions"] += 1
        if len(group["completions"]) < MAX_COMPLETIONS:
            facts: dict[str, Any] = {key: row[key] for key in ("reward", "advantage")}
            if row.get("guided"):  # else the page would take it for an answer to the prompt alone
                facts["guided"] = True
            group["completions"].append(as_completion(row, **facts, parts=_named(row)))
    if group is not None:
        yield group


def _new_group(row: dict[str, Any]) -> Group:
    return {
        "step": row["step"],
        "prompt_id": row["prompt_id"],
        "prompt": shortened(str(row["prompt"])),
        "answer": str(row.get("answer") or ""),
        "num_completions": 0,
        "completions": [],
    }


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the rewards of a completion by name if there are several."""
    found = {key.removeprefix("reward_"): row[key] for key in row if key.startswith("reward_")}
    return found if len(found) > 1 else {}


def _rows(step: int, parts: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with readable(part.path):
            batches = part.file.iter_batches(batch_size=BATCH, row_groups=list(part.row_groups))
            for batch in batches:
                yield from (row for row in batch.to_pylist() if row["step"] == step)
