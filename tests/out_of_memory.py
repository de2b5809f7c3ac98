"""Stands in for any part of a model, and asks for more memory than there is."""

from __future__ import annotations

import torch

MORE_THAN_ANY_MACHINE_HAS = 2**46


def run_out(*args: object, **kwargs: object) -> None:
    """Makes torch raise its own error."""
    torch.empty(MORE_THAN_ANY_MACHINE_HAS)
