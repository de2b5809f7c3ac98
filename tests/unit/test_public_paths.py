"""Names by which users reach the package: in configurations, in the docs, and in their own code."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

import callbacks
import steer_lightning.callbacks as inside
from steer_lightning.cli.short_names import CLASSES

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    [
        *ROOT.glob("configs/**/*.yaml"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("callbacks/*.md"),
        ROOT / "README.md",
    ]
)
CLASS_PATH = re.compile(r"class_path: *[\"']?([A-Za-z_]\w*(?:\.\w+)*)")
OWN = re.compile(r"\bsteer_lightning(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^ *from (steer_lightning[\w.]*) import ([\w, ]+)", re.MULTILINE)

EXPORTS = {
    "": "ConfigError PromptDataModule SteeringModule SteeringVectors attach export_vectors from_hub"
    " load_model load_vectors push_to_hub save_vectors",
    "advantages": "Advantage DrGRPO GRPO MovingAverage RLOO Reinforce ReinforcePlusPlus has_signal",
    "callbacks": "BenchmarkEval GracefulStop Guard LastCheckpoint LensCallback RewardLogger"
    " RolloutTable RunSummary SignalWatch SteeringProgressBar VectorCheckpoint",
    "data": "Arithmetic ByPassRate ChatTemplate DeepScaleR GSM8K Math PlainTemplate"
    " PromptDataModule PromptOrder Records SVAMP Shuffled Template make_prompts",
    "evaluation": "AIME24 AIME25 AMC23 AvgAtK BenchmarkMetrics CompletionLength CutOffShare"
    " Estimate FormatShare MATH500 MajAtK MinervaMath OlympiadBench PassAtK PerProblem Sample"
    " difference estimate evaluate_batch",
    "losses": "Aggregation Clip ConstantLength Correction EntropyBonus KLEstimator KLToBase Loss"
    " Objective PolicyGradient PrefixLikelihood ScoreFunction SequenceClip SequenceMean SequenceSum"
    " Term TokenMean TruncatedImportance check_kl_weight k1 k2 k3",
    "optim": "AdamWByKind MuonByLayer NormClip OptimizerFactory RunningNormClip Schedule",
    "rewards": "AsyncReward FormatReward LengthReward MathReward Reward RewardPool RewardSum Scores"
    " Scoring Verdict WeightedReward reward_name",
    "rollout": "DecodeEngine GenerateEngine RolloutEngine Sampling VLLMEngine",
    "steering": "AdaptiveVectors Attachment BitFit FullFinetune LoRA LowRankVectors SiteVectors"
    " Steering SteeringVectors VectorFit attach find_layers find_result find_sites find_vectors"
    " load_steering load_vectors measure_rms parse_layers save_vectors stream_width"
    " warn_of_another_base",
    "strategy": "SteeringDDP SteeringFSDP SteeringFSDP2 SteeringStrategy",
    "testing": "ARCHITECTURES byte_tokenizer check_engine check_reward make_prompts save_tiny"
    " tiny_model tiny_policy",
    "training": "Contrast PromptContrast Reading ThoughtContrast",
    "types": "Completion LossInputs LossOutput Problem Prompt Rollouts Source",
}
"""What each public room offers; a name that goes breaks somebody's code."""


def named_in(file: Path) -> set[str]:
    """Dotted names that a text gives its readers, without classes that it defines itself."""
    text = file.read_text()
    found = {*CLASS_PATH.findall(text), *OWN.findall(text)}
    own = set(re.findall(r"^class (\w+)", text, re.MULTILINE))
    found = {name for name in found if name.rpartition(".")[2] not in own}
    imports = [(room, names.split(",")) for room, names in IMPORT.findall(text)]
    return found | {f"{room}.{name.split()[0]}" for room, names in imports for name in names}


NAMES = sorted(set().union(*map(named_in, TEXTS)))


@pytest.mark.parametrize("name", NAMES)
def test_what_configurations_and_docs_name_is_there(name: str) -> None:
    where = [file.name for file in TEXTS if name in named_in(file)]
    full = next((of[name] for of in CLASSES.values() if name in of), name)  # it may be short
    try:
        found = resolve_name(full)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{', '.join(where)}: {name}: {error}")
    assert found is not None


def test_texts_are_read() -> None:
    assert len(TEXTS) > 30
    assert {"torch.optim.AdamW", "steer_lightning.losses.k2", "steer_lightning.attach"} < {*NAMES}


@pytest.mark.parametrize("room", EXPORTS)
def test_public_rooms_export_what_they_did(room: str) -> None:
    module = import_module(f"steer_lightning.{room}".rstrip("."))
    names = {*EXPORTS[room].split(), *getattr(module, "__all__", [])}
    assert {name for name in names if not hasattr(module, name)} == set()
    assert names <= {*getattr(module, "__all__", names)}


def test_the_package_lists_its_names_without_importing_them() -> None:
    script = (
        "import sys, steer_lightning; print(*dir(steer_lightning)); "
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(EXPORTS[""].split())


def test_the_command_is_there() -> None:
    entry = re.compile(r"^\[project\.scripts\]\nsteer-lightning = \"(.+)\"$", re.MULTILINE)
    (path,) = entry.findall((ROOT / "pyproject.toml").read_text())
    assert path == "steer_lightning.cli:main"
    assert callable(resolve_name(path))


def test_the_door_leads_to_the_same_classes() -> None:
    assert callbacks.__all__ == inside.__all__
    assert all(getattr(callbacks, name) is getattr(inside, name) for name in inside.__all__)
