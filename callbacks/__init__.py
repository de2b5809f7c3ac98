"""Imports the package's callbacks; this folder is also the place for your own. See README.md."""

from steer_lightning.callbacks import (
    BenchmarkEval,
    GracefulStop,
    Guard,
    LastCheckpoint,
    LensCallback,
    RewardLogger,
    RolloutTable,
    RunSummary,
    SignalWatch,
    SteeringProgressBar,
    VectorCheckpoint,
)

__all__ = [
    "BenchmarkEval",
    "GracefulStop",
    "Guard",
    "LastCheckpoint",
    "LensCallback",
    "RewardLogger",
    "RolloutTable",
    "RunSummary",
    "SignalWatch",
    "SteeringProgressBar",
    "VectorCheckpoint",
]
