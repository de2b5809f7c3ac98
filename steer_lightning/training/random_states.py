"""The process's random states, in types that a checkpoint loads with `weights_only=True`.

Rollouts and the data's order do not need them: they are seeded from (seed, step) and (seed, epoch).
A user's reward or data source may draw from the global generators.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def get_random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, those of all GPUs included."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            [int(key) for key in keys],
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restores what `get_random_states` returned; GPUs only where there are as many as then."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
