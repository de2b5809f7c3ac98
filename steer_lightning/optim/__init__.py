"""The optimizers, the gradient clips and the learning-rate schedule."""

from steer_lightning.optim.adamw import AdamWByKind, default_optimizer, default_settings
from steer_lightning.optim.check import OptimizerFactory, check_optimizer
from steer_lightning.optim.muon_by_layer import MuonByLayer
from steer_lightning.optim.state import state_facts
from steer_lightning.optim.step_size import NormClip, RunningNormClip, Schedule

__all__ = [
    "AdamWByKind",
    "MuonByLayer",
    "NormClip",
    "OptimizerFactory",
    "RunningNormClip",
    "Schedule",
    "check_optimizer",
    "default_optimizer",
    "default_settings",
    "state_facts",
]
