"""Steering vectors: the parameter, where it is added, and its file.

Knows nothing of reinforcement learning.
"""

from steer_lightning.steering.attach import (
    Attachment,
    attach,
    check_fit,
    stream_width,
    warn_of_another_base,
)
from steer_lightning.steering.config import SteeringConfig
from steer_lightning.steering.io import load_vectors, save_vectors
from steer_lightning.steering.layers import find_layers, parse_layers
from steer_lightning.steering.units import measure_rms
from steer_lightning.steering.vectors import SteeringVectors

__all__ = [
    "Attachment",
    "SteeringConfig",
    "SteeringVectors",
    "attach",
    "check_fit",
    "find_layers",
    "load_vectors",
    "measure_rms",
    "parse_layers",
    "save_vectors",
    "stream_width",
    "warn_of_another_base",
]
