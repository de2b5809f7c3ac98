"""Evaluation: the benchmarks, the metrics with intervals, and the code that runs them."""

from steer_lightning.evaluation.at_k import (
    AvgAtK,
    CompletionLength,
    CutOffShare,
    FormatShare,
    MajAtK,
    PassAtK,
    PerProblem,
    Sample,
)
from steer_lightning.evaluation.benchmarks import (
    AIME24,
    AIME25,
    AMC23,
    MATH500,
    MinervaMath,
    OlympiadBench,
)
from steer_lightning.evaluation.intervals import Estimate, difference, estimate
from steer_lightning.evaluation.metrics import BenchmarkMetrics
from steer_lightning.evaluation.runner import evaluate_batch

__all__ = [
    "AIME24",
    "AIME25",
    "AMC23",
    "MATH500",
    "AvgAtK",
    "BenchmarkMetrics",
    "CompletionLength",
    "CutOffShare",
    "Estimate",
    "FormatShare",
    "MajAtK",
    "MinervaMath",
    "OlympiadBench",
    "PassAtK",
    "PerProblem",
    "Sample",
    "difference",
    "estimate",
    "evaluate_batch",
]
