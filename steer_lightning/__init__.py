"""Steering vectors for reasoning.

One vector per decoder layer of a frozen language model, learned by RL.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steer_lightning.data import PromptDataModule
    from steer_lightning.errors import ConfigError
    from steer_lightning.model.base import load_model
    from steer_lightning.module import SteeringModule
    from steer_lightning.results.export import export_vectors
    from steer_lightning.results.publish import from_hub, push_to_hub
    from steer_lightning.steering import SteeringVectors, attach, load_vectors, save_vectors

__all__ = [
    "ConfigError",
    "PromptDataModule",
    "SteeringModule",
    "SteeringVectors",
    "attach",
    "export_vectors",
    "from_hub",
    "load_model",
    "load_vectors",
    "push_to_hub",
    "save_vectors",
]

_HOMES = {
    "ConfigError": "errors",
    "PromptDataModule": "data",
    "SteeringModule": "module",
    "SteeringVectors": "steering",
    "attach": "steering",
    "export_vectors": "results.export",
    "from_hub": "results.publish",
    "load_model": "model.base",
    "load_vectors": "steering",
    "push_to_hub": "results.publish",
    "save_vectors": "steering",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    This way `steer-lightning --help` does not have to import torch.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Lists the public names, imported or not."""
    return sorted(__all__)
