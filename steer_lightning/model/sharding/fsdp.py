"""Sharding the base by decoder layer with FSDP1, `FullyShardedDataParallel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from steer_lightning.model.sharding.pace import kept_in_step, one_token
from steer_lightning.model.sharding.whole import Layers, Sharding
from steer_lightning.system.collectives import largest


class FlatSharding(Sharding):
    """Places a part of the flat parameter of every layer in each process.

    Each process first reads the whole base into the memory of its host.

    Args:
        device: Device of this process.
        strategy: Strategy that decides what stays gathered, and for how long.
        settings: Further arguments of `FullyShardedDataParallel`.
    """

    shards = True
    why_not_packed = "FSDP1 ends a backward pass only at the model's own output"
    why_not_generate = "generate bypasses the wrapper that gathers the weights of FSDP1"

    def __init__(
        self, device: torch.device, strategy: ShardingStrategy, settings: dict[str, Any]
    ) -> None:
        self.device, self.strategy, self.settings = device, strategy, settings

    def build(self, load: Callable[[], Any], make_empty: Callable[[], Any], layers: Layers) -> Any:
        """Creates the model; see `Sharding.build`."""
        model = load().requires_grad_(False).eval()
        self._names = set(model.state_dict())
        self._num_parameters = super().num_parameters(model)
        kinds = {type(layer) for layer in layers(model)}
        return FullyShardedDataParallel(
            model,
            sharding_strategy=self.strategy,
            device_id=self.device,
            **{"auto_wrap_policy": ModuleWrapPolicy(kinds), **self.settings},
        )

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Turns gradients off; an update could not use weights gathered in inference mode."""
        return torch.no_grad()

    def for_rollouts(self, model: Any) -> AbstractContextManager[None]:
        """Gathers all weights by one pass of all processes, or keeps their passes in step."""
        if self.in_step:
            return kept_in_step(model)
        one_token(model)  # the weights stay gathered until the next backward pass
        return nullcontext()

    @property
    def in_step(self) -> bool:
        """Whether each pass of a rollout needs all processes; see `Sharding.in_step`."""
        return self.strategy is not ShardingStrategy.SHARD_GRAD_OP

    def most_passes(self, count: int) -> int:
        """Returns the largest number of passes that any process needs."""
        return largest(count)

    def full_tensors(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields all weights and buffers; see `Sharding.full_tensors`."""
        for name, unit in model.named_modules():
            if not isinstance(unit, FullyShardedDataParallel):
                continue
            with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False):
                for full_name, tensor in _own(_plain(name), unit):
                    if full_name in self._names:
                        yield full_name, tensor.detach().clone()  # FSDP frees the original

    def num_parameters(self, model: Any) -> int:
        """Returns the number of parameters of the whole base."""
        return self._num_parameters


def _plain(name: str) -> str:
    """Returns a name without the parts that wrapping has added."""
    return name.replace("_fsdp_wrapped_module.", "").removesuffix("_fsdp_wrapped_module")


def _own(prefix: str, unit: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights and buffers of a unit, without those of units inside it, by full name."""
    inner = [
        _plain(name) + "."
        for name, module in unit.named_modules()
        if isinstance(module, FullyShardedDataParallel) and module is not unit
    ]
    for name, tensor in (*unit.named_parameters(remove_duplicate=False), *unit.named_buffers()):
        plain = _plain(name)
        if not plain.startswith(tuple(inner)):
            yield (f"{prefix}.{plain}" if prefix else plain), tensor
