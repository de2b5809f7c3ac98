"""Names the remedies when memory does not hold the experiments of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from steer_lightning.errors import ConfigError
from steer_lightning.system.out_of_memory import is_out_of_memory


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
