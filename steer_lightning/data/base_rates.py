"""The base's pass rate on each problem, from the completions of an evaluation."""

from __future__ import annotations

from pathlib import Path

from steer_lightning.data.files import read_file
from steer_lightning.errors import ConfigError
from steer_lightning.system.run_files import COMPLETIONS

BASE = "base"
NEEDED = ("arm", "question", "verdict")


def base_rates(path: str, key: str) -> dict[str, float]:
    """Reads how often the base solves each question.

    Args:
        path: Folder of an evaluation, or its `completions.parquet`.
        key: Key of the path in the configuration, for errors.

    Returns:
        The share of right completions among those with a verdict, by question.

    Raises:
        ConfigError: If there is no such file, or it does not hold completions of the base.
    """
    file = Path(path).expanduser()
    file = file / COMPLETIONS if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(
            key,
            path,
            rule="there are no completions of an evaluation",
            fix="Evaluate the base on the problems: steer-lightning evaluate, without vectors",
        )
    rows = read_file(str(file))
    if not rows or any(name not in rows[0] for name in NEEDED):
        rule = f"must have the columns {', '.join(NEEDED)}"
        raise ConfigError(key, path, rule=rule, why="It is no file of an evaluation")
    verdicts: dict[str, list[bool]] = {}
    for row in rows:
        if row["arm"] == BASE and row["verdict"] is not None:
            verdicts.setdefault(row["question"], []).append(row["verdict"] >= 1)
    if not verdicts:
        raise ConfigError(key, path, rule="has no completion of the base with a verdict")
    return {question: sum(right) / len(right) for question, right in verdicts.items()}
