"""DeepScaleR-Preview: 40,315 competition mathematics problems, the paper's main training set."""

from __future__ import annotations

from steer_lightning.data.records import Records


class DeepScaleR(Records):
    """DeepScaleR-Preview from the hub, or from a local file with the same columns.

    Its name on the hub is `agentica-org/DeepScaleR-Preview-Dataset`.

    Args:
        path: A local file; null loads from the hub.
        limit: Number of problems to take; null takes all.
        skip: Number of problems to leave out at the start.
    """

    def __init__(self, path: str | None = None, limit: int | None = None, skip: int = 0) -> None:
        super().__init__(
            path=path,
            hub_name=None if path else "agentica-org/DeepScaleR-Preview-Dataset",
            split="train",
            question_column="problem",
            limit=limit,
            skip=skip,
            answer_column="answer",
        )
