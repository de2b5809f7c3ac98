"""The problems of another source on which the base's pass rate is in a given range."""

from __future__ import annotations

from steer_lightning.data.base_rates import base_rates
from steer_lightning.data.source_around import SourceAround
from steer_lightning.errors import ConfigError
from steer_lightning.types import Problem, Source


class Stratum(SourceAround):
    """Takes the problems of a source that the base solves in a given share of its samples.

    A curriculum by strata (SPARKLE, arXiv 2506.04723) trains on easy problems first, and then on
    harder ones: one run for each stratum, each of which starts with the vectors of the one before
    (`model.steering.init_from`). `ByPassRate`, in contrast, measures the pass rate of the policy
    during training, and draws from all problems.

    Args:
        source: Source of the problems.
        rates: Folder of an evaluation of the base on these problems, or its `completions.parquet`.
            Problems that it does not have are left out.
        lowest: Smallest pass rate.
        below: Pass rate from which on problems are left out; null takes all from `lowest` on.

    Raises:
        ConfigError: If the range is empty, or there are no completions.
    """

    def __init__(
        self, source: Source, rates: str, lowest: float = 0.0, below: float | None = None
    ) -> None:
        if not 0 <= lowest <= 1:
            raise ConfigError("Stratum.lowest", lowest, rule="must be from 0 to 1")
        if below is not None and not lowest < below <= 1:
            rule = f"must be above Stratum.lowest = {lowest} and at most 1"
            raise ConfigError("Stratum.below", below, rule=rule)
        super().__init__(source)
        self.rates, self.lowest, self.below = rates, lowest, below

    def load(self) -> list[Problem]:
        """Loads the problems of the stratum, in the order of the source.

        Raises:
            ConfigError: If the stratum has no problem.
        """
        rates = base_rates(self.rates, "source.rates")
        top = float("inf") if self.below is None else self.below
        found: list[Problem] = [
            problem
            for problem in self.source.load()
            if problem.question in rates and self.lowest <= rates[problem.question] < top
        ]
        if not found:
            raise ConfigError(
                "source.lowest",
                self.lowest,
                rule=f"no problem has a pass rate from {self.lowest} to {self.below or 1}",
                why=f"{self.rates} has pass rates from {min(rates.values()):g} to "
                f"{max(rates.values()):g}",
                fix="Widen the range, or evaluate the base on the problems of this source",
            )
        return found
