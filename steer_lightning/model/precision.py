"""The precisions in which a base is checked: float32, where rounding hides nothing, and its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.system.out_of_memory import is_out_of_memory
from steer_lightning.system.printable import one_line

log = logging.getLogger(__name__)

ROOM = 0.8
"""Share of a GPU's free memory that float32 weights may take in addition to the original ones."""

MOST_ELSEWHERE = 4 * 2**30
"""Maximum number of additional bytes on other devices, whose free memory torch does not report."""


def precision_of(policy: Any) -> torch.dtype:
    """Returns the data type that corresponds to the precision of the base's arithmetic.

    Args:
        policy: `Policy` whose base is loaded.
    """
    dtype: torch.dtype = policy.model.dtype
    coarse = torch.get_float32_matmul_precision() != "highest" and policy.device.type == "cuda"
    return torch.float16 if dtype == torch.float32 and coarse else dtype  # TensorFloat-32


def checked_in_float32(policy: Any, check: Callable[[], str | None]) -> str | None:
    """Runs a check in float32, if the base is coarser and memory allows, and then in its own dtype.

    If memory runs out in float32, the base is checked only in its own dtype from then on.

    Args:
        policy: `Policy` whose base is loaded.
        check: Function that returns an error message, or None.

    Returns:
        Error message, or None.
    """
    if policy.fits_in_float32:
        try:
            with _in_float32(policy.model):
                reason = check()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            policy.fits_in_float32, reason = False, None
            _tell(policy, "memory ran out in float32")
        if reason is not None:
            return f"{reason}, in float32"
    return check()


def fits_in_float32(policy: Any) -> bool:
    """Returns whether a base that is coarser than float32 can temporarily be checked in float32.

    Args:
        policy: `Policy` whose base is loaded.
    """
    if precision_of(policy) not in (torch.bfloat16, torch.float16):
        return False
    reason = _why_not_float32(policy)
    if reason is not None:
        _tell(policy, reason)
    return reason is None


def _tell(policy: Any, reason: str) -> None:
    log.warning(
        "the base is checked only in %s (%s): errors smaller than its rounding would not be "
        "noticed. docs/reference/models.md lists the models that need no such check",
        one_line(policy.model.dtype).removeprefix("torch."),
        one_line(reason),
    )


def _why_not_float32(policy: Any) -> str | None:
    if policy.sharding.shards:
        return "it is sharded"
    needed = 2 * sum(tensor.numel() for tensor in _narrow(policy.model))
    room = MOST_ELSEWHERE
    if policy.device.type == "cuda":
        room = int(ROOM * torch.cuda.mem_get_info(policy.device)[0])
    if needed > room:
        return f"in float32 it needs {needed / 2**30:.1f} GB more"
    ids = torch.ones(1, 4, dtype=torch.long, device=policy.device)
    try:
        with _in_float32(policy.model), misfits() as errors, policy.with_text_roles(ids, 1):
            policy.model(input_ids=ids, use_cache=False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return "memory ran out in float32"
    return f"it can't be read in float32: {errors[0]}" if errors else None


def _narrow(model: torch.nn.Module) -> list[torch.Tensor]:
    """Returns the parameters and buffers in 16 bits."""
    tensors = (*model.parameters(), *model.buffers())
    return [tensor for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)]


@contextmanager
def misfits() -> Iterator[list[str]]:
    """Catches errors of a model that does not support some way of reading.

    A model that does not fit the interfaces may fail in many ways. ConfigErrors, which say what to
    do, and out-of-memory errors are still raised.

    Yields:
        List to which the error message is added.
    """
    found: list[str] = []
    try:
        yield found
    except ConfigError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if is_out_of_memory(error):
            raise
        found.append(f"{type(error).__name__}: {error}")


@contextmanager
def _in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Keeps the weights in float32 within the block; afterwards they are exactly as before."""
    tensors, matmul = _narrow(model), torch.get_float32_matmul_precision()
    dtypes = [tensor.dtype for tensor in tensors]
    torch.set_float32_matmul_precision("highest")
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)
        torch.set_float32_matmul_precision(matmul)
