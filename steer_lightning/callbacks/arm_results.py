"""The results of the arms that `BenchmarkEval` measures beside the trained vectors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import BenchmarkMetrics, difference
from steer_lightning.evaluation.ablation import EvalArm
from steer_lightning.system.collectives import gather_objects
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """The result of one evaluation of one arm on one benchmark.

    Attributes:
        difference: Accuracy of the arm minus that of the trained vectors, over the same problems.
        difference_low: Lower end of the paired 95 % interval; None for a single problem.
        difference_high: Upper end of the interval.
    """

    benchmark: str
    arm: str
    step: int
    accuracy: float
    completion_length: float
    cut_off_share: float
    num_unscored: float
    difference: float
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by name, without those that do not exist."""
        keys = {"benchmark", "arm", "step"}
        return {k: v for k, v in asdict(self).items() if k not in keys and v is not None}


def arm_results(
    benchmark: str,
    step: int,
    arms: Sequence[EvalArm],
    metrics: Sequence[BenchmarkMetrics],
    failed: Mapping[str, str],
) -> list[ArmResult]:
    """Computes the results of arms over all processes, and warns about arms without one.

    Args:
        benchmark: Name of the benchmark.
        step: Number of the step.
        arms: The arms, the trained vectors first.
        metrics: Metrics of each arm.
        failed: Reasons why arms have no answers in this process, by their names.
    """
    everywhere = {
        name: why for found in gather_objects(dict(failed)) for name, why in found.items()
    }
    trained = metrics[0].by_problem()
    results = []
    for arm, of_arm in zip(arms[1:], metrics[1:], strict=True):
        if arm.name in everywhere:
            continue
        try:
            numbers = of_arm.result()
        except ConfigError as error:  # it has judged the trained vectors, so it may be down now
            everywhere[arm.name] = str(error)
            continue
        change = difference(of_arm.by_problem(), trained)
        results.append(
            ArmResult(
                benchmark=benchmark,
                arm=arm.name,
                step=step,
                difference=change.value,
                difference_low=change.low,
                difference_high=change.high,
                **numbers,
            )
        )
    for name, reason in everywhere.items():
        log.warning(
            "arm %s of %s is not measured at step %d: %s",
            one_line(name),
            one_line(benchmark),
            step,
            one_line(reason),
        )
    return results


def lines_of(results: Sequence[ArmResult]) -> list[str]:
    """Returns a line for each arm, with its difference from the trained vectors in points."""
    width = max((len(result.arm) for result in results), default=0)
    lines = []
    for found in results:
        line = f"{'':10}  {found.arm:<{width}}  {found.accuracy:6.1%}"
        line += f"  {100 * found.difference:+.1f} points from the trained vectors"
        if found.difference_low is not None and found.difference_high is not None:
            low, high = 100 * found.difference_low, 100 * found.difference_high
            line += f" [{low:+.1f}, {high:+.1f}]"
        lines.append(line)
    return lines
