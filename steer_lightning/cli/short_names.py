"""Classes that come with the package, by kind of plug-in, so that their names need no module.

jsonargparse (tested with 4.53) finds short names among the imported subclasses of a class. Plug-ins
here follow protocols, which have no subclasses, so their short names are looked up in this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints

PACKAGE = "steer_lightning"
ROOMS: dict[str, dict[str, str]] = {
    "Advantage": {
        "advantages": "BestOf DrGRPO GRPO MaxRL MovingAverage RLOO Reinforce ReinforcePlusPlus"
    },
    "Loss": {"losses": "PolicyGradient PrefixLikelihood"},
    "Objective": {"losses": "CISPO Clip Likelihood ScoreFunction SequenceClip"},
    "Aggregation": {"losses": "ConstantLength SequenceMean SequenceSum TokenMean"},
    "Correction": {"losses": "TruncatedImportance"},
    "Term": {"losses": "EntropyBonus KLToBase"},
    "Reward": {
        "rewards": "AsyncReward BudgetReward FormatReward InstructionReward LengthReward MathReward"
    },
    "Source": {
        "data": "Arithmetic DeepScaleR GSM8K Instructions Math PartialSolutions Records SVAMP "
        "Stratum TokenBudgets",
        "evaluation": "AIME24 AIME25 AMC23 MATH500 MinervaMath OlympiadBench",
    },
    "Template": {"data": "ChatTemplate PlainTemplate"},
    "Contrast": {"training": "PromptContrast ThoughtContrast"},
    "PromptOrder": {"data": "ByPassRate Shuffled"},
    "RolloutEngine": {"rollout": "DecodeEngine GenerateEngine VLLMEngine"},
    "Steering": {
        "steering": "AdaptiveVectors BitFit FullFinetune LoRA LoReFT "
        "LowRankVectors ProjectedVectors READ SMoA SteeringVectors TinyLoRA VeRA VectorFit"
    },
    "Module": {"optim": "NormClip RunningNormClip"},
    "Callback": {
        "callbacks": "BenchmarkEval GracefulStop Guard LastCheckpoint LensCallback RewardLogger "
        "RolloutTable RunSummary SignalWatch SteeringProgressBar VectorCheckpoint"
    },
    "Optimizer": {"optim": "AdamWByKind MuonByLayer", "optim.soap_by_layer": "SOAPByLayer"},
}
"""Names of the classes of each kind, by room; a kind is the name of a protocol or a class."""

CLASSES = {
    kind: {name: f"{PACKAGE}.{room}.{name}" for room in rooms for name in rooms[room].split()}
    for kind, rooms in ROOMS.items()
}
"""Full names of the classes of each kind, by short name."""

OF_TORCH = (
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD "
    "SparseAdam"
)
# bitsandbytes has an Adam and an AdamW, too, so the names alone would be ambiguous
CLASSES["Optimizer"] |= {name: f"torch.optim.{name}" for name in OF_TORCH.split()}

ALSO_IMPORTED = ("Callback", "Logger", "Optimizer")
"""Kinds of which other libraries also have classes, whose names jsonargparse knows."""

SAID = {"Module": "gradient clip"}
"""What to call kinds whose own name says too little."""

_of_jsonargparse = _typehints.resolve_class_path_by_name


@contextmanager
def short_names() -> Iterator[None]:
    """Lets jsonargparse take the short names of this table while the block runs."""
    _typehints.resolve_class_path_by_name = _full_name
    try:
        yield
    finally:
        _typehints.resolve_class_path_by_name = _of_jsonargparse


def _full_name(cls: Any, name: str) -> str:
    """Returns the full name of a class where a certain class or protocol is expected.

    Raises:
        ValueError: If no class of that kind has the name; `messages` parses this text.
    """
    if "." in name:
        return name
    kinds = cls if isinstance(cls, tuple) else (cls,)
    names = [getattr(kind, "__name__", "") for kind in kinds]
    if names == ["SteeringVectors"]:  # which an annotation names beside its base class
        names = ["Steering"]
    known = {short: full for kind in names for short, full in CLASSES.get(kind, {}).items()}
    if name in known:
        return known[name]
    if names[0] == "Module":  # none of torch's thousands of modules clips a gradient
        found = name
    else:
        found = _of_jsonargparse(cls, name)
        if "." in found:
            return found
    if any(kind in ALSO_IMPORTED for kind in names):
        paths = (path for kind in kinds for path in _typehints.get_all_subclass_paths(kind))
        known |= {path.rpartition(".")[2]: path for path in paths}
    if not known:
        return found
    told = ", ".join(sorted(known))
    raise ValueError(
        f"There is no {SAID.get(names[0], names[0])} named '{name}'; known are: {told}"
    )
