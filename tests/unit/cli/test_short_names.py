"""Names of classes without their module."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser, _typehints
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger

from steer_lightning.advantages import GRPO, Advantage
from steer_lightning.callbacks import BenchmarkEval
from steer_lightning.cli.short_names import CLASSES, ROOMS, _full_name, short_names
from steer_lightning.data import ChatTemplate
from steer_lightning.data.order import PromptOrder
from steer_lightning.data.templates import Template
from steer_lightning.errors import ConfigError
from steer_lightning.losses import Aggregation, Correction, Loss, Objective, Term
from steer_lightning.rewards import Reward
from steer_lightning.rollout import RolloutEngine
from steer_lightning.steering import Steering, SteeringVectors
from steer_lightning.training import Contrast
from steer_lightning.types import Source

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Advantage, Loss, Objective, Aggregation, Correction, Term, Reward, Source, Template),
        *(PromptOrder, RolloutEngine, Steering, torch.nn.Module, Callback, torch.optim.Optimizer),
        Contrast,
    )
}
NO_PLUG_INS = {"RewardSum", "SiteVectors"}
"""A reward that returns more than rewards, and a base class."""


def is_of(kind: Any, thing: Any) -> bool:
    if not inspect.isclass(thing) or inspect.isabstract(thing) or thing is kind:
        return False
    return bool(_typehints.is_subclass_or_implements_protocol(thing, kind))


@pytest.mark.parametrize("kind", ROOMS)
def test_the_table_has_every_class_that_a_room_exports(kind: str) -> None:
    for room, names in ROOMS[kind].items():
        module = import_module(f"steer_lightning.{room}")
        own = [x for x in vars(module) if not x.startswith("_")]
        exported = [
            x for x in getattr(module, "__all__", own) if is_of(KINDS[kind], vars(module)[x])
        ]
        assert sorted({*exported} - NO_PLUG_INS - {*dir(torch.optim)}) == sorted(names.split())


NEWER = {"Muon"} - {*dir(torch.optim)}
"""What the oldest torch that is allowed lacks."""


def test_full_names_lead_to_classes_and_no_kind_is_left_out() -> None:
    assert {*KINDS} == {*ROOMS}
    for kind, names in CLASSES.items():
        for short, full in names.items():
            assert short in NEWER or is_of(KINDS[kind], resolve_name(full)), full
            assert full.endswith(f".{short}")
    in_torch = {x for x in dir(torch.optim) if is_of(torch.optim.Optimizer, vars(torch.optim)[x])}
    own = {name for names in ROOMS["Optimizer"].values() for name in names.split()}
    assert in_torch | NEWER == {*CLASSES["Optimizer"]} - own


def test_names_are_resolved_while_the_block_runs() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--advantage", type=Advantage | None)
    with short_names():
        given = parser.parse_args(["--advantage", "GRPO"])
        in_a_yaml = parser.parse_object({"advantage": {"class_path": "GRPO"}})
    assert given.advantage.class_path == "steer_lightning.advantages.GRPO"
    assert in_a_yaml == given
    assert isinstance(parser.instantiate(given).advantage, GRPO)
    assert _typehints.resolve_class_path_by_name is not _full_name


def test_names_of_other_libraries_stay() -> None:
    assert _full_name(Logger, "CSVLogger").endswith("CSVLogger")
    assert resolve_name(_full_name(Logger, "CSVLogger")) is CSVLogger
    assert resolve_name(_full_name(Callback, "BenchmarkEval")) is BenchmarkEval
    assert resolve_name(_full_name(Callback, "EarlyStopping")).__module__.startswith("lightning")
    assert _full_name((torch.optim.Optimizer,), "AdamW") == "torch.optim.AdamW"
    assert _full_name(Template, "my_file.Mine") == "my_file.Mine"
    assert _full_name(Template, "ChatTemplate") == f"steer_lightning.data.{ChatTemplate.__name__}"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            Advantage,
            "no Advantage named 'Nope'; known are: BestOf, DrGRPO, GRPO, MaxRL, MovingAverage",
        ),
        (SteeringVectors, "no Steering named 'Nope'; known are: AdaptiveVectors, BitFit"),
        (torch.nn.Module, "no gradient clip named 'Nope'; known are: NormClip, RunningNormClip"),
        (Callback, "known are: .*BenchmarkEval.*EarlyStopping.*VectorCheckpoint"),
    ],
)
def test_a_wrong_name_gets_the_known_ones_of_its_kind(kind: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as found:
        _full_name(kind, "Nope")
    assert not isinstance(found.value, ConfigError), "the parser adds the key"
    assert ("GRPO" in str(found.value)) == (kind is Advantage)
