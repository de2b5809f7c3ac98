"""MATH: 7,500 training and 5,000 test problems of competition mathematics.

The data set is by Hendrycks et al. (arXiv 2103.03874).
"""

from __future__ import annotations

from typing import Literal

from steer_lightning.data.records import Records


class Math(Records):
    r"""MATH from the hub, or from a local file with the same columns.

    Its name on the hub is `DigitalLearningGmbH/MATH-lighteval`. The gold answer is in the box at
    the end of the solution, as `\boxed{2}`, `\boxed 2` or `\fbox{2}`. `MathReward` takes it from
    there, and leaves all completions unscored if a row has no box.

    Args:
        split: `train` or `test`, on the hub.
        path: A local file; null loads from the hub.
        limit: Number of problems to take; null takes all.
        skip: Number of problems to leave out at the start.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        path: str | None = None,
        limit: int | None = None,
        skip: int = 0,
    ) -> None:
        super().__init__(
            path=path,
            hub_name=None if path else "DigitalLearningGmbH/MATH-lighteval",
            split=split,
            question_column="problem",
            limit=limit,
            skip=skip,
            answer_column="solution",
        )
