"""GSM8K: 7,473 training and 1,319 test problems of grade-school mathematics.

The data set is by Cobbe et al. (arXiv 2110.14168).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from steer_lightning.data.files import split_file
from steer_lightning.data.records import Records
from steer_lightning.errors import ConfigError
from steer_lightning.types import Problem


class GSM8K:
    """GSM8K from the hub (`openai/gsm8k`), or from local files of the same form.

    The gold answer is the text after `####` in the last line of the solution.

    Args:
        split: `train` or `test`.
        path: A folder with `train.jsonl` and `test.jsonl`, or one file; null loads from the hub.
        limit: Number of problems to take; null takes all.
        skip: Number of problems to leave out at the start.

    Raises:
        ConfigError: If the file is missing.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        path: str | None = None,
        limit: int | None = None,
        skip: int = 0,
    ) -> None:
        file = None if path is None else split_file(path, split, "GSM8K.path")
        hub = "openai/gsm8k" if file is None else None
        self._records = Records(
            path=file,
            hub_name=hub,
            hub_config="main" if hub else None,
            split=split,
            limit=limit,
            skip=skip,
        )

    def load(self) -> list[Problem]:
        """Reads all problems of the split."""
        return [
            replace(problem, answer=final_answer(problem.answer))
            for problem in self._records.load()
        ]


def final_answer(solution: str) -> str:
    """Returns the text after `####`, without thousands separators.

    Raises:
        ConfigError: If there is no `####`.
    """
    _, mark, answer = solution.rpartition("####")
    if not mark:
        raise ConfigError("source", solution, rule="its gold answers must follow ####")
    return answer.strip().replace(",", "")
