"""The callbacks that watch a run: they read public attributes and never change loss or data."""

from steer_lightning.callbacks.benchmark_eval import BenchmarkEval
from steer_lightning.callbacks.graceful_stop import GracefulStop, SignalWatch
from steer_lightning.callbacks.guard import Guard
from steer_lightning.callbacks.last_checkpoint import LastCheckpoint
from steer_lightning.callbacks.lens import LensCallback
from steer_lightning.callbacks.progress_bar import SteeringProgressBar
from steer_lightning.callbacks.reward_logger import RewardLogger
from steer_lightning.callbacks.rollout_table import RolloutTable
from steer_lightning.callbacks.run_summary import RunSummary
from steer_lightning.callbacks.vector_checkpoint import VectorCheckpoint

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
