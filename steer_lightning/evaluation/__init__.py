"""Evaluation: benchmarks, metrics, and the loop that runs them."""

from steer_lightning.evaluation.metrics import BenchmarkMetrics
from steer_lightning.evaluation.runner import evaluate_batch

__all__ = ["BenchmarkMetrics", "evaluate_batch"]
