"""Lightning strategies for several processes: they may shard the base, never the vectors.

Each process holds a copy of the vectors in float32, outside of everything that is sharded. The
module itself sums their gradient once per step, so no strategy wraps the module. Checkpoints hold
only the vectors and look like those of a single process.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.parallel import ParallelStrategy
from lightning.pytorch.strategies.strategy import TBroadcast
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.device_mesh import DeviceMesh

from steer_lightning.errors import ConfigError
from steer_lightning.model.sharding import FlatSharding, LayerSharding, Sharding
from steer_lightning.system.collectives import together
from steer_lightning.system.peer_watch import PeerWatch, all_arrive

HOURS = 24.0
"""Default time-out of a collective call: rollouts take long, and `PeerWatch` notices failures."""

MINUTES = 10.0
"""Default time to connect all processes; a process that fails before that is not noticed."""


class SteeringStrategy(ParallelStrategy):
    """Base class of the three strategies, with the code that they share.

    Attributes:
        agreed: Message that the first process sent to the others when the run began; see `tell`.
    """

    # the module is not wrapped and its state takes kilobytes, so these work as in one process
    setup_optimizers = Strategy.setup_optimizers
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    lightning_restore_optimizer = True
    restore_checkpoint_after_setup = False

    connect_minutes: float
    shards = False  # whether a process holds only a part of the base; known before they connect
    is_one_of_several = False  # whether other runs go on in the processes when this one ends
    checkpoint: dict[str, Any] | None = None  # the checkpoint to load, if it was read before
    agreed: Any = None
    _told: Any = None
    _peers: PeerWatch | None = None

    def tell(self, message: Any) -> None:
        """Sets the message that the first process sends the others once they are connected."""
        self._told = message

    def setup_environment(self) -> None:
        """Connects the processes; a second call only sets the device of its thread."""
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        if self._peers is not None:
            return
        allow_open_files()
        host = self.cluster_environment.main_address if self.cluster_environment else "127.0.0.1"
        with all_arrive(self.connect_minutes, host):
            self._connect()
            self._peers = PeerWatch(self.global_rank, self.world_size, host, self.broadcast)
        self.agreed = self.broadcast(self._told)

    def connect_beside(self, first: SteeringStrategy) -> None:
        """Lets several runs share the connected processes, which stay connected until `leave`.

        Args:
            first: Strategy of the run that connects the processes.
        """
        self.is_one_of_several = True
        if self is first:
            self.setup_environment()
        else:
            self._connect()
            self._peers = first._peers

    def leave(self, exception: BaseException | None = None) -> None:
        """Tells the other processes that this one ends.

        Args:
            exception: Exception that ends it; none at the regular end.
        """
        if self._peers is not None:
            self._peers.leave(exception)

    def _connect(self) -> None:
        """Creates the process group."""
        raise NotImplementedError

    def sharding(self) -> Sharding:
        """Returns how the base is laid out in memory; requires that the processes are connected."""
        raise NotImplementedError

    def setup(self, trainer: L.Trainer) -> None:
        """Sets up as with a single process, except that no precision plugin touches the base."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def model_to_device(self) -> None:
        """Moves the vectors to the device, and the base if it is not sharded."""
        assert self.model is not None
        self.model.to(self.root_device)

    def load_checkpoint(self, checkpoint_path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint in the first process for all, since others may not see its disk."""
        if self.checkpoint is not None:
            return self.checkpoint
        found: dict[str, Any] = {}
        if self.is_global_zero:
            found = Strategy.load_checkpoint(self, checkpoint_path, *args, **kwargs)
        return self.broadcast(found)

    def on_exception(self, exception: BaseException) -> None:
        """Tells the other processes about the exception, because they would wait in vain."""
        if not self.is_one_of_several:
            self.leave(exception)

    def teardown(self) -> None:
        """Tells the other processes that this one ends normally."""
        if not self.is_one_of_several:
            self.leave()
            self._peers = None
        super().teardown()

    # ---- Lightning's collective calls, of the strategy from which a subclass inherits, too

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Waits until all processes have come here; see Lightning's `Strategy`."""
        with together(" ".join(map(str, ("barrier", *args)))) as has_others:
            if has_others:
                super().barrier(*args, **kwargs)  # type: ignore[safe-super]

    def broadcast(self, obj: TBroadcast, src: int = 0) -> TBroadcast:
        """Returns one process's object on all processes; see Lightning's `Strategy`."""
        with together("broadcast") as has_others:
            if not has_others:
                return obj
            return super().broadcast(obj, src)  # type: ignore[safe-super]

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns a tensor reduced over the processes; see Lightning's `Strategy`."""
        with together("reduce") as has_others:
            if not has_others:
                return tensor
            return super().reduce(tensor, *args, **kwargs)  # type: ignore[safe-super]

    def all_gather(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns the tensors of all processes; see Lightning's `Strategy`."""
        with together("all_gather") as has_others:
            return super().all_gather(tensor, *args, **kwargs) if has_others else tensor


class SteeringDDP(SteeringStrategy, DDPStrategy):
    """Strategy in which each process holds the whole base.

    Args:
        timeout_hours: Longest time that one process may wait for another in a collective call, in
            hours.
        connect_minutes: Longest time to wait until all processes have connected, in minutes. A
            process that fails before it has connected is not noticed earlier.
        process_group_backend: Backend of the process group; null uses NCCL on GPUs and gloo on
            CPUs.
    """

    def __init__(
        self,
        timeout_hours: float = HOURS,
        connect_minutes: float = MINUTES,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            timeout=timedelta(hours=_above_zero("timeout_hours", timeout_hours)),
            process_group_backend=process_group_backend,
        )
        self.connect_minutes = _above_zero("connect_minutes", connect_minutes)

    def _connect(self) -> None:
        self.setup_distributed()

    def sharding(self) -> Sharding:
        """Returns the plain placement: the whole base in each process."""
        return Sharding()


class SteeringFSDP2(SteeringStrategy, ModelParallelStrategy):
    """Strategy that shards the base with FSDP2, layer by layer.

    Args:
        shard_size: Number of processes that share one copy of the base; it must divide the number
            of all processes. With null, the processes of each node share one copy, so that no
            weights travel between nodes.
        gather_for_rollouts: Whether to gather the whole base once for each rollout instead of layer
            by layer for each token. With null, the whole base is gathered if it takes at most half
            of the device's memory.
        timeout_hours: Longest time that one process may wait for another in a collective call, in
            hours.
        connect_minutes: Longest time to wait until all processes have connected, in minutes. A
            process that fails before it has connected is not noticed earlier.
        process_group_backend: Backend of the process group; null uses NCCL on GPUs and gloo on
            CPUs.

    Raises:
        ConfigError: If the processes do not divide into groups of `shard_size`.
    """

    shards = True

    def __init__(
        self,
        shard_size: int | None = None,
        gather_for_rollouts: bool | None = None,
        timeout_hours: float = HOURS,
        connect_minutes: float = MINUTES,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=False,
            timeout=timedelta(hours=_above_zero("timeout_hours", timeout_hours)),
            process_group_backend=process_group_backend,
        )
        self.connect_minutes = _above_zero("connect_minutes", connect_minutes)
        self.shard_size, self.gather_for_rollouts = shard_size, gather_for_rollouts

    def _connect(self) -> None:
        size = self.shard_size or self.num_processes
        if size < 1 or self.world_size % size:
            raise ConfigError(
                "trainer.strategy.init_args.shard_size",
                self.shard_size,
                rule=f"must divide the number of processes, {self.world_size}",
            )
        ModelParallelStrategy._setup_distributed(self)
        group: Any = dist.group.WORLD
        if size < self.world_size:  # groups made by the mesh would have torch's short time-out
            group, _ = dist.new_subgroups(size, timeout=self._timeout)  # type: ignore[no-untyped-call]
        self._device_mesh = DeviceMesh.from_group(
            group, self.root_device.type, mesh_dim_names=("shard",)
        )

    def sharding(self) -> Sharding:
        """Returns the sharding by decoder layer."""
        return LayerSharding(self.device_mesh, self.root_device, self.gather_for_rollouts)


class SteeringFSDP(SteeringStrategy, FSDPStrategy):
    """Strategy that shards the base with FSDP1, layer by layer; prefer `SteeringFSDP2`.

    Args:
        sharding_strategy: How often layers are gathered. `SHARD_GRAD_OP` gathers them once for a
            rollout and the update after it. `FULL_SHARD` gathers them for each token, which is slow
            but needs the least memory.
        timeout_hours: Longest time that one process may wait for another in a collective call, in
            hours.
        connect_minutes: Longest time to wait until all processes have connected, in minutes. A
            process that fails before it has connected is not noticed earlier.
        process_group_backend: Backend of the process group; null uses NCCL on GPUs and gloo on
            CPUs.
        kwargs: Further arguments of Lightning's `FSDPStrategy`.
    """

    shards = True

    def __init__(
        self,
        sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP"] = "SHARD_GRAD_OP",
        timeout_hours: float = HOURS,
        connect_minutes: float = MINUTES,
        process_group_backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sharding_strategy=sharding_strategy,
            timeout=timedelta(hours=_above_zero("timeout_hours", timeout_hours)),
            process_group_backend=process_group_backend,
            **kwargs,
        )
        self.connect_minutes = _above_zero("connect_minutes", connect_minutes)

    @property
    def precision_plugin(self) -> Any:
        """Plain plugin, since FSDP's own would convert the base to float32 and fail on prompts."""
        given = self._precision_plugin
        return Precision() if given is None or given.precision == "32-true" else given

    @precision_plugin.setter
    def precision_plugin(self, precision_plugin: Any) -> None:
        self._precision_plugin = precision_plugin

    def _connect(self) -> None:
        FSDPStrategy.setup_environment(self)

    def sharding(self) -> Sharding:
        """Returns the sharding by flat parameter; for one process, which FSDP1 refuses, none."""
        if self.world_size == 1:
            return Sharding()
        return FlatSharding(self.root_device, self.sharding_strategy, self.kwargs)


MOST_OPEN_FILES = 10240
"""Limit of open files where the system names no largest one; macOS refuses higher ones then."""


def allow_open_files() -> int:
    """Raises the limit of open files as far as the system allows.

    The first of several processes holds connections to all others, and a sweep has files of all
    its experiments open.

    Returns:
        The limit.
    """
    if sys.platform == "win32":
        return MOST_OPEN_FILES
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(now, MOST_OPEN_FILES) if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    return limit


def _above_zero(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        key = f"trainer.strategy.init_args.{name}"
        raise ConfigError(key, value, rule="must be a number above 0")
    return value


STRATEGIES: dict[str, type[SteeringStrategy]] = {
    "auto": SteeringDDP,
    "ddp": SteeringDDP,
    "fsdp": SteeringFSDP,
    "fsdp2": SteeringFSDP2,
}
"""Strategies that `trainer.strategy` can name; `auto` with one process needs none of them."""


def wants_several(devices: Any, num_nodes: Any) -> bool:
    """Returns whether `trainer.devices` and `trainer.num_nodes` may ask for several processes."""
    return str(devices) not in ("1", "[0]") or int(num_nodes or 1) > 1
