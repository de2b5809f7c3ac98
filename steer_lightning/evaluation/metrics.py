"""The metrics of a benchmark during training, which add up over batches and processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torchmetrics import MeanMetric, MetricCollection, SumMetric

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.evaluation.at_k import AvgAtK, Sample, gather_tensors
from steer_lightning.evaluation.intervals import Values, estimate
from steer_lightning.types import Rollouts


class BenchmarkMetrics(MetricCollection):
    """Collects the metrics of a benchmark.

    These are accuracy (over the scored completions) with its 95 % interval (by the bootstrap over
    problems), completion_length in tokens, cut_off_share and num_unscored.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "accuracy": MeanMetric(dist_sync_fn=gather_tensors),
                "problems": AvgAtK(),
                "completion_length": MeanMetric(dist_sync_fn=gather_tensors),
                "cut_off_share": MeanMetric(dist_sync_fn=gather_tensors),
                "num_unscored": SumMetric(dist_sync_fn=gather_tensors),
            }
        )

    def update_with(self, rollouts: Rollouts, verdicts: Sequence[float | None]) -> None:
        """Adds N completions with their N verdicts; None counts as unscored, not as wrong."""
        scored = [verdict for verdict in verdicts if verdict is not None]
        size = rollouts.group_size
        lengths, finished = rollouts.completion_mask.sum(1).tolist(), rollouts.finished.tolist()
        samples = [
            Sample(verdict=verdict, num_tokens=length, finished=end)
            for verdict, length, end in zip(verdicts, lengths, finished, strict=True)
        ]
        for b, prompt in enumerate(rollouts.prompts):
            self["problems"].update(prompt.id, samples[b * size : (b + 1) * size])
        device = self["accuracy"].device
        if scored:
            self["accuracy"].update(torch.tensor(scored, device=device))
        self["completion_length"].update(rollouts.completion_mask.sum(1).float().to(device))
        self["cut_off_share"].update((~rollouts.finished).float().to(device))
        self["num_unscored"].update(float(len(verdicts) - len(scored)))

    def by_problem(self) -> Values:
        """Returns the accuracy on each problem in the order of the ids, over all processes, (P,).

        The accuracy is NaN if no completion could be scored.
        """
        problems = self["problems"]
        assert isinstance(problems, AvgAtK)
        return problems.by_problem()[1]

    def result(self) -> dict[str, float]:
        """Computes the metrics so far, over all processes.

        Returns:
            The metrics by name, with `accuracy_low` and `accuracy_high` if there are several
            problems.

        Raises:
            ConfigError: If no completion could be scored, so that there is no accuracy.
        """
        # this comes first, so that a process without problems can take part in joining
        interval = estimate(self.by_problem())
        with warnings.catch_warnings():  # a process may have had no problem
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            found = {name: float(value) for name, value in self.compute().items()}
        if math.isnan(found["accuracy"]):
            raise ConfigError(
                "benchmark",
                UNKNOWN,
                rule="no completion could be scored",
                why="The verifier could not use any gold answer, or it failed or timed out "
                "each time",
                fix="Check the answer column of the source, and the verifier",
            )
        del found["problems"]  # equals the accuracy, unless some completions were not scored
        if interval.low is not None and interval.high is not None:
            found |= {"accuracy_low": interval.low, "accuracy_high": interval.high}
        return found
