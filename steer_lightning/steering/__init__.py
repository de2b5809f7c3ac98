"""The kinds of trainable parameters: vectors, edits, adapters, changes of weights; and their files.

This package does not depend on reinforcement learning.
"""

from steer_lightning.steering.adaptive import AdaptiveVectors
from steer_lightning.steering.attach import attach
from steer_lightning.steering.base import Attachment, ConstantVector, Steering
from steer_lightning.steering.biases import BitFit
from steer_lightning.steering.full import FullFinetune
from steer_lightning.steering.io import (
    find_result,
    find_vectors,
    load_steering,
    load_vectors,
    save_vectors,
)
from steer_lightning.steering.layers import find_layers, parse_layers, stream_width
from steer_lightning.steering.lora import LoRA
from steer_lightning.steering.low_rank import LowRankVectors
from steer_lightning.steering.projected import ProjectedVectors
from steer_lightning.steering.read import READ
from steer_lightning.steering.reft import LoReFT
from steer_lightning.steering.site_vectors import SiteVectors, warn_of_another_base
from steer_lightning.steering.sites import find_sites
from steer_lightning.steering.smoa import SMoA
from steer_lightning.steering.tiny_lora import TinyLoRA
from steer_lightning.steering.units import measure_rms
from steer_lightning.steering.vectorfit import VectorFit
from steer_lightning.steering.vectors import SteeringVectors
from steer_lightning.steering.vera import VeRA

__all__ = [
    "AdaptiveVectors",
    "BitFit",
    "FullFinetune",
    "LoRA",
    "LoReFT",
    "LowRankVectors",
    "ProjectedVectors",
    "READ",
    "SMoA",
    "TinyLoRA",
    "VeRA",
    "VectorFit",
    "load_steering",
    "Attachment",
    "ConstantVector",
    "SiteVectors",
    "Steering",
    "SteeringVectors",
    "attach",
    "find_layers",
    "find_sites",
    "find_result",
    "find_vectors",
    "load_vectors",
    "measure_rms",
    "parse_layers",
    "save_vectors",
    "stream_width",
    "warn_of_another_base",
]
