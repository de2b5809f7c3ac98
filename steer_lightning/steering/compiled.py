"""The two guards against code of `torch.compile` that passes by what is attached to a model later.

A compiled function keeps its first trace. It checks neither for hooks that were added since nor for
weights that an attribute hides, so that a steering would have no effect, or would outlast its
removal. A model that is seen to be compiled is refused; compiled code that a model does not know
of, such as that of `compiled = torch.compile(model)`, is made to trace the model anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

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


NAME = "_steer_lightning_trace"
"""Attribute of a module in which its `FreshTrace` is kept."""


def traced_anew(module: nn.Module) -> FreshTrace:
    """Makes compiled code trace a module anew, for one more hook, which removes it once."""
    trace: FreshTrace = vars(module).get(NAME) or FreshTrace(module)
    trace.num_users += 1
    return trace


class FreshTrace:
    """Gives a module a `forward` of its own, which is the one that it has.

    Compiled code checks that an attribute of the instance hides the `forward` of the class, or does
    not: whatever was traced before is then passed by, and left as it is for after the removal. It
    checks by itself whether hooks that were there when it was traced are there still.

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
        """Ends one use; with the last one the module is as it was."""
        self.num_users -= 1
        if self.num_users > 0:
            return
        del vars(self.module)[NAME]
        if vars(self.module).get("forward") is not self.forward:
            return  # someone has placed another one in front since, which may call this one
        if self.before is None:
            del vars(self.module)["forward"]
        else:
            vars(self.module)["forward"] = self.before


def _through(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that compiled code tells from the one that it calls."""

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return call
