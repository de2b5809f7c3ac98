"""What is trained: steering vectors, where they are added, and their file.

Knows nothing of reinforcement learning.
"""

from steer_lightning.steering.at_sites import SiteVectors, warn_of_another_base
from steer_lightning.steering.attach import attach
from steer_lightning.steering.base import Attachment, Steering
from steer_lightning.steering.io import find_vectors, load_vectors, save_vectors
from steer_lightning.steering.layers import find_layers, parse_layers, stream_width
from steer_lightning.steering.units import measure_rms
from steer_lightning.steering.vectors import SteeringVectors

__all__ = [
    "Attachment",
    "SiteVectors",
    "Steering",
    "SteeringVectors",
    "attach",
    "find_layers",
    "find_vectors",
    "load_vectors",
    "measure_rms",
    "parse_layers",
    "save_vectors",
    "stream_width",
    "warn_of_another_base",
]
