"""Sharding the base by decoder layer with `fully_shard` of FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from steer_lightning.model.sharding.pace import kept_in_step
from steer_lightning.model.sharding.whole import Layers, Sharding
from steer_lightning.system.collectives import gather_objects, largest, rank

ROOM = 0.5
"""Largest share of a device's memory that the gathered base may take in rollouts."""


class LayerSharding(Sharding):
    """Places a part of every layer in each process of a group.

    Only the first process reads the weights. It sends parts to the others, so that no other process
    ever holds all of them. For a rollout they are gathered once, if there is room.

    Args:
        mesh: One-dimensional mesh of the processes that share one copy of the base.
        device: Device of this process.
        gather: Whether the whole base is gathered for rollouts; None decides by the available
            memory.
    """

    shards = True

    def __init__(self, mesh: DeviceMesh, device: torch.device, gather: bool | None = None) -> None:
        self.mesh, self.device, self.gather = mesh, device, gather

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """Creates the model; see `Sharding.build`."""
        weights: dict[str, Any] = {}
        buffers: dict[str, torch.Tensor] = {}
        if rank() == 0:
            full = load()
            weights, buffers = full.state_dict(), dict(full.named_buffers())
        dtypes = gather_objects({name: tensor.dtype for name, tensor in weights.items()})[0]
        model = make_empty().requires_grad_(False).eval()
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(dtypes[name])  # some layers may stay in float32
        self._shard(model, list(layers(model)))
        model.to_empty(device=self.device)
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=True, cpu_offload=False, strict=False
        )
        set_model_state_dict(model, weights, options=options)
        for name, buffer in model.named_buffers():  # includes buffers that a state dict leaves out
            if rank() == 0:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
        return model

    def _shard(self, model: Any, layers: list[Any]) -> None:
        for layer in layers:
            fully_shard(layer, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        # each module gathers the weights of the next one while it runs; in backward passes FSDP2
        # does this by itself
        for module, following in pairwise([model, *layers]):
            module.set_modules_to_forward_prefetch([following])

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Turns gradients off; an update could not use weights gathered in inference mode."""
        return torch.no_grad()

    def for_rollouts(self, model: Any) -> AbstractContextManager[None]:
        """Gathers all weights once, or keeps the passes of the processes in step."""
        if self.gather is None:
            self.gather = self._has_room(model)
        return _gathered(model) if self.gather else kept_in_step(model, self.mesh.get_group())

    @property
    def in_step(self) -> bool:
        """Whether passes need all processes; known once the first rollout has begun."""
        return not self.gather

    def _has_room(self, model: Any) -> bool:
        if self.device.type != "cuda":
            return True
        needed = sum(p.numel() * p.element_size() for p in model.parameters())
        most = torch.cuda.get_device_properties(self.device).total_memory
        return not largest(int(needed > ROOM * most))  # all processes must make the same decision

    def most_passes(self, count: int) -> int:
        """Returns the largest number of passes that any process of the group needs."""
        return largest(count, self.mesh.get_group())

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields all weights and buffers; see `Sharding.full_tensors`."""
        for name, tensor in model.state_dict().items():
            yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def _gathered(model: Any) -> Iterator[None]:
    """Gathers all weights of all layers in each process within the block."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    inner = [module for module in modules if module is not model]
    for module in inner:  # otherwise each token would gather the weights again
        module.set_reshard_after_forward(False, recurse=False)
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for module in inner:
            module.set_reshard_after_forward(True, recurse=False)
        for module in modules:
            module.reshard()
