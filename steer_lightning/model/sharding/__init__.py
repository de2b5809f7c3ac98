"""The placements of the frozen base in the memory of several processes."""

from steer_lightning.model.sharding.fsdp import FlatSharding
from steer_lightning.model.sharding.fsdp2 import LayerSharding
from steer_lightning.model.sharding.whole import Sharding

__all__ = ["FlatSharding", "LayerSharding", "Sharding"]
