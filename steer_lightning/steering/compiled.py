"""Two guards against code of `torch.compile` that ignores later attachments to a model.

A compiled function keeps its first trace. It checks neither for hooks that were added later nor for
weights that are hidden by an attribute, so a steering would have no effect, or would remain in
effect after its removal. A model that is known to be compiled is refused. Compiled code that the
model does not know about, such as that of `compiled = torch.compile(model)`, is made to trace the
model again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from steer_lightning.errors import UNKNOWN, ConfigError


def check_not_compiled(model: nn.Module, places: Sequence[nn.Module] = ()) -> None:
    """Raises a ConfigError if a model is compiled, as a whole or at the places to steer.

    Args:
        model: Model to steer.
        places: Modules with hooks. A compiled module runs its own hooks, but not those of its
            parts, so only modules that contain these modules matter. Without any, no part of the
            model may be compiled.
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
            rule=f"{name or type(model).__name__} is compiled, so nothing can be attached inside "
            "it",
            why="Compiled code ignores hooks and changed weights that were not there when it was "
            "traced",
            fix="Attach to the original model instead of the result of torch.compile: attach the "
            "vectors first and compile the model afterwards. Or compile only the decoder layers, "
            "each separately, `for layer in layers: layer.compile()`, and steer their "
            "`layer_output`",
        )


def _is_compiled(module: nn.Module) -> bool:
    """Returns whether a module, or its `forward`, has been compiled in any of three ways."""
    return (
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


NAME = "_steer_lightning_trace"
"""Attribute of a module in which its `FreshTrace` is kept."""


def traced_anew(module: nn.Module) -> FreshTrace:
    """Makes compiled code trace a module again; for each hook, `remove` is called once."""
    trace: FreshTrace = vars(module).get(NAME) or FreshTrace(module)
    trace.num_users += 1
    return trace


class FreshTrace:
    """Gives a module a new `forward` that calls its old one.

    Compiled code checks whether an attribute of the instance hides the `forward` of the class. So
    it does not use earlier traces now, but can use them again after the removal. It checks by
    itself whether hooks that existed when it was traced still exist.

    Args:
        module: Module with a hook.

    Attributes:
        num_users: Number of hooks of the module that need it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.num_users = module, 0
        self.before: Callable[..., Any] | None = vars(module).get("forward")
        self.forward = module.forward if self.before is None else _through(self.before)
        vars(module).update({NAME: self, "forward": self.forward})

    def remove(self) -> None:
        """Ends one use; after the last one the module is restored."""
        self.num_users -= 1
        if self.num_users > 0:
            return
        del vars(self.module)[NAME]
        if vars(self.module).get("forward") is not self.forward:
            return  # other code has placed its own `forward` in front, which may call this one
        if self.before is None:
            del vars(self.module)["forward"]
        else:
            vars(self.module)["forward"] = self.before


def _through(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls another one, but that compiled code can tell from it."""

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return call
