"""The base sharded a decoder layer at a time by FSDP2, `torch.distributed.fsdp.fully_shard`."""

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

from steer_lightning.model.sharding.pace import in_step
from steer_lightning.model.sharding.whole import Layers, Sharding
from steer_lightning.system.collectives import gather_objects, largest, rank

ROOM = 0.5
"""The base is gathered for rollouts if it takes at most so much of a device's memory."""


class LayerSharding(Sharding):
    """Each process of a group holds its part of every layer.

    Weights are read by the first process alone and sent to the others, so that no other one ever
    holds them all. For a rollout they are gathered once, where there is room.

    Args:
        mesh: One-dimensional, the processes that share one copy of the base.
        device: Of this process.
        gather: Whether the whole base is gathered for rollouts; None decides by the memory.
    """

    shards = True

    def __init__(self, mesh: DeviceMesh, device: torch.device, gather: bool | None = None) -> None:
        self.mesh, self.device, self.gather = mesh, device, gather

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """See `Sharding.build`."""
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
        for name, buffer in model.named_buffers():  # those that a state dict leaves out, too
            if rank() == 0:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
        return model

    def _shard(self, model: Any, layers: list[Any]) -> None:
        for layer in layers:
            fully_shard(layer, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        # each gathers the next one's weights while it works; backward passes do so by themselves
        for module, following in pairwise([model, *layers]):
            module.set_modules_to_forward_prefetch([following])

    def without_gradients(self) -> AbstractContextManager[Any]:
        """No inference mode: what is gathered there could not be read by an update."""
        return torch.no_grad()

    def for_rollouts(self, model: Any) -> AbstractContextManager[None]:
        """Gathers all weights once, or lets processes pass forward in step."""
        if self.gather is None:
            self.gather = self._has_room(model)
        return _gathered(model) if self.gather else in_step(model, self.mesh.get_group())

    @property
    def in_step(self) -> bool:
        """See `Sharding.in_step`; it is known once the first rollout has begun."""
        return not self.gather

    def _has_room(self, model: Any) -> bool:
        if self.device.type != "cuda":
            return True
        needed = sum(p.numel() * p.element_size() for p in model.parameters())
        most = torch.cuda.get_device_properties(self.device).total_memory
        return not largest(int(needed > ROOM * most))  # all processes do the same

    def most_passes(self, count: int) -> int:
        """The most that any process of the group needs."""
        return largest(count, self.mesh.get_group())

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Sharding.full_tensors`."""
        for name, tensor in model.state_dict().items():
            yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def _gathered(model: Any) -> Iterator[None]:
    """All weights of all layers, in each process, while the block runs."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    inner = [module for module in modules if module is not model]
    for module in inner:  # otherwise each token would gather anew
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
