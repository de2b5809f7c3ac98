r"""The benchmarks of mathematics on which arXiv 2505.18706 evaluates, by their names on the hub.

Each benchmark reads the hub, or a local .jsonl, .json or .parquet file with the same columns. For a
benchmark of your own, use `steer_lightning.data.Records` with its columns.
"""

from __future__ import annotations

from steer_lightning.data import Records
from steer_lightning.types import Problem


class MATH500(Records):
    """500 problems of MATH's test split (arXiv 2305.20050), answered once each.

    Args:
        path: Local file with the columns `problem` and `answer`; null loads
            `HuggingFaceH4/MATH-500`.
        limit: Number of problems to take, from the start; null takes all.
    """

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        hub = None if path else "HuggingFaceH4/MATH-500"
        super().__init__(
            path=path, hub_name=hub, split="test", question_column="problem", limit=limit
        )


class AIME24(Records):
    """The 30 problems of AIME 2024, with 32 samples each by default.

    Args:
        path: Local file with the columns `Problem` and `Answer`; null loads
            `Maxwell-Jia/AIME_2024`.
        limit: Number of problems to take, from the start; null takes all.
    """

    num_samples = 32

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        super().__init__(
            path=path,
            hub_name=None if path else "Maxwell-Jia/AIME_2024",
            split="train",
            question_column="Problem",
            answer_column="Answer",
            limit=limit,
        )


class AIME25:
    """The 30 problems of both AIME 2025 examinations, with 32 samples each by default.

    Args:
        path: Local file with the columns `question` and `answer`; null loads
            `opencompass/AIME2025`.
        limit: Number of problems to take, from the start; null takes all.
    """

    num_samples = 32

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        self._parts = [Records(path=path, limit=limit)] if path else self._of_the_hub()
        self._limit = limit

    @staticmethod
    def _of_the_hub() -> list[Records]:
        names = ("AIME2025-I", "AIME2025-II")
        hub = "opencompass/AIME2025"
        return [Records(hub_name=hub, hub_config=name, split="test") for name in names]

    def load(self) -> list[Problem]:
        """Reads both examinations, one after the other."""
        return [problem for part in self._parts for problem in part.load()][: self._limit]


class AMC23(Records):
    """The 40 problems of AMC 2023, with 32 samples each by default.

    Args:
        path: Local file with the columns `problem` and `answer`; null loads `knoveleng/AMC-23`.
        limit: Number of problems to take, from the start; null takes all.
    """

    num_samples = 32

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        hub = None if path else "knoveleng/AMC-23"
        super().__init__(path=path, hub_name=hub, question_column="problem", limit=limit)


class MinervaMath(Records):
    r"""272 problems of Minerva-Math (arXiv 2206.14858), answered once each.

    The gold answer is in the `\boxed{}` of the solution.

    Args:
        path: Local file with the columns `problem` and `solution`; null loads
            `knoveleng/Minerva-Math`.
        limit: Number of problems to take, from the start; null takes all.
    """

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        super().__init__(
            path=path,
            hub_name=None if path else "knoveleng/Minerva-Math",
            question_column="problem",
            answer_column="solution",
            limit=limit,
        )


class OlympiadBench(Records):
    """675 text-only problems of OlympiadBench (arXiv 2402.14008), answered once each.

    Args:
        path: Local file with the columns `question` and `answer`; null loads
            `knoveleng/OlympiadBench`.
        limit: Number of problems to take, from the start; null takes all.
    """

    def __init__(self, path: str | None = None, limit: int | None = None) -> None:
        hub = None if path else "knoveleng/OlympiadBench"
        super().__init__(path=path, hub_name=hub, limit=limit)
