"""The refusal of compiled models, which pass by what is attached to them later.

A compiled function keeps its first trace. It checks neither for hooks that were added since nor for
weights that an attribute hides, so that a steering would have no effect, or would outlast its
removal.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError


def check_not_compiled(model: nn.Module, places: Sequence[nn.Module] = ()) -> None:
    """Raises a ConfigError if a model is compiled, as a whole or where it is to be steered.

    Args:
        model: Model that is to be steered.
        places: Modules with hooks. A compiled module runs its own hooks, but not those of its
            parts, so only modules around these matter. If there are none, no part of the model may
            be compiled.
    """
    for name, module in model.named_modules():
        if not _is_compiled(module):
            continue
        inside = set(module.modules()) - {module}
        if places and not any(place in inside for place in places):
            continue
        raise ConfigError(
            "model",
            UNKNOWN,
            rule=f"{name or type(model).__name__} is compiled, and can't be steered inside",
            why="Compiled code passes by hooks and changed weights that it was not traced with",
            fix="Attach to the model as it was before torch.compile. Vectors may be attached first "
            "and the model compiled then; or compile only the decoder layers, each by itself, "
            "`for layer in layers: layer.compile()`, and steer their `layer_output`",
        )


def _is_compiled(module: nn.Module) -> bool:
    """Tells whether a module, or its `forward`, has been compiled in any of three ways."""
    return (
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )
