"""Refuses a sweep that memory can't hold, and names the remedies when memory runs out later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.quantization import plain_linears
from steer_lightning.model.quantized_linear import Bits, quantized_bytes
from steer_lightning.system.out_of_memory import is_out_of_memory

EACH = 4 * 2**20
"""Bytes that an experiment takes at the very least: its modules, trainer, state and log. 24 of them
took 4.7 MB each more than 4 of them, on the quickstart."""


def check_memory(num_experiments: int, weights: int, free: int | None) -> None:
    """Refuses more experiments than memory can hold, before the base is loaded.

    The needs are the least that is possible: passes take more, by the settings that bound them.

    Args:
        num_experiments: Number of experiments that train at once.
        weights: Number of bytes of the base's weights.
        free: Number of bytes of free memory; None if unknown.

    Raises:
        ConfigError: If they do not fit.
    """
    needed = weights + num_experiments * EACH
    if free is None or needed <= free:
        return
    most = max(0, free - weights) // EACH
    raise ConfigError(
        "sweep",
        f"{num_experiments} experiments",
        rule=f"need at least {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free",
        why=f"The base alone takes {weights / 2**30:.1f} GB",
        fix=f"Train fewer than {most} experiments at once"
        if most > 1
        else "Use a smaller base, model.dtype: bfloat16, or a machine with more memory",
    )


def bytes_of(model: Any, dtype: torch.dtype | None, bits: Bits | None = None) -> int:
    """Returns the number of bytes of a model's weights, which need not be loaded.

    Args:
        model: Model, such as one on torch's meta device; a language model if it is quantised.
        dtype: Data type in which they will be loaded; None for that of each parameter.
        bits: Bits to which its linear layers will be quantised; None if they will not be. While
            they are, the host holds the whole weights, which are not counted here.
    """
    linears = () if bits is None else plain_linears(model).values()
    quantised, total = {id(layer.weight) for layer in linears}, 0
    for x in model.parameters():
        if bits is not None and id(x) in quantised:
            total += quantized_bytes(x.numel(), bits)
        else:
            total += x.numel() * (dtype or x.dtype).itemsize
    return total


def free_memory(device: torch.device) -> int | None:
    """Returns the number of bytes of free memory for a device; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = []
    with suppress(OSError, ValueError, IndexError):  # Linux only
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # of a container with a limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{x}").read_text()) for x in ("max", "current"))
        found.append(limit - used)
    return min(found, default=None)


@contextmanager
def memory_for(num_experiments: int) -> Iterator[None]:
    """Turns an error of the block that says that memory ran out into one that names remedies.

    Args:
        num_experiments: Number of experiments that train at once.

    Raises:
        ConfigError: If memory ran out.
    """
    try:
        yield
    except ConfigError as error:  # of an engine that has tried with fewer and fewer completions
        if not (isinstance(error.__cause__, Exception) and is_out_of_memory(error.__cause__)):
            raise
        fix = f"{error.fix}. Or train fewer than {num_experiments} experiments at once"
        raise ConfigError(
            error.key, error.value, rule=error.rule, why=error.why, fix=fix
        ) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "sweep",
            f"{num_experiments} experiments",
            rule="memory ran out in a pass that experiments share",
            why="It holds completions of several of them",
            fix="Train fewer experiments at once, or lower model.engine.max_tokens_in_flight, "
            "which bounds a pass of the rollout, or model.tokens_per_micro_batch, which bounds "
            "one of the update",
        ) from error
