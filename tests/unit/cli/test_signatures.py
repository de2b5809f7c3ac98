"""What the source of a class says of its arguments, beside what Python says of the class."""

from __future__ import annotations

import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch

from steer_lightning.cli.short_names import CLASSES
from steer_lightning.cli.signatures import Sources

EVERY = sorted(path for names in CLASSES.values() for path in names.values())
NEWER = [] if hasattr(torch.optim, "Muon") else ["torch.optim.Muon"]
BESIDE = [
    "steer_lightning.rollout.Sampling",  # a dataclass
    "steer_lightning.SteeringModule",  # imported under a condition
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "bitsandbytes.optim.AdamW8bit",
    "bitsandbytes.optim.Lion8bit",
    "steer_lightning.data.make_prompts",
]


@pytest.mark.parametrize("path", [path for path in [*EVERY, *BESIDE] if path not in NEWER])
def test_the_source_tells_what_python_tells(path: str) -> None:
    found = Sources().signature(path)
    assert found is not None
    real = inspect.signature(resolve_name(path)).parameters
    assert list(found.parameters) == [x for x in real if real[x].kind not in (2, 4)]
    required = {name for name, x in found.parameters.items() if x.is_required}
    assert required == {
        x for x in real if real[x].default is real[x].empty and x in found.parameters
    }
    assert found.is_complete == all(x.kind not in (2, 4) for x in real.values())


OWN = """
from dataclasses import dataclass, field
from steer_lightning.rewards import MathReward as Right
try:
    import nothing
except ImportError:
    class Fallback:
        def __init__(self, a, *, b=1, **rest): ...

class Inherits(Right): ...
class Unclear(nothing.Base): ...
class Made:
    def __new__(cls, x): ...
Alias = Right
@nothing.changed
class Decorated: ...

@dataclass
class Fields:
    a: int
    b: list = field(default_factory=list)
    c: int = field(init=False)

@dataclass
class More(Fields):
    d: int = 3
"""


def test_forms_of_a_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_signatures.py").write_text(OWN)
    (tmp_path / "broken_signatures.py").write_text("class A(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = Sources()

    def names(name: str) -> dict[str, bool] | None:
        found = sources.signature(f"own_signatures.{name}")
        return found and {key: x.is_required for key, x in found.parameters.items()}

    assert names("Fallback") == {"a": True, "b": False}
    fallback = sources.signature("own_signatures.Fallback")
    assert fallback is not None
    assert not fallback.is_complete
    assert names("Inherits") == {"answer_in": False}
    assert names("Fields") == {"a": True, "b": False}
    assert names("More") == {"a": True, "b": False, "d": False}
    assert [names(x) for x in ("Unclear", "Made", "Alias", "Decorated", "Nope")] == [None] * 5
    assert sources.signature("broken_signatures.A") is None
    assert sources.signature("no_such_module.A") is None
