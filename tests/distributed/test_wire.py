"""What goes over the wire, counted call by call: of gradients that of the vectors alone.

The counts are those of `benchmarks/wire.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.wire import SIZES, STRATEGIES, make_base, settings
from tests.started import all_end, node

pytestmark = pytest.mark.multi_process

Counts = dict[str, list[int]]
FULL_SHARD = {
    "class_path": "steer_lightning.strategy.SteeringFSDP",
    "init_args": {"sharding_strategy": "FULL_SHARD"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two that differ by the width of their MLP alone, eightfold."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: make_base(folder / name, width) for name, width in SIZES.items()}


def count(folder: Path, base: str, strategy: Any, **model: Any) -> list[list[Counts]]:
    """Calls and bytes by phase and kind, of both processes' steps."""
    config = settings(folder, base, strategy, processes=2)
    config["model"].update(model)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ("fit", "--config", "config.yaml", "--ckpt_path=new")
    for done in all_end(node(*words, folder=folder, processes=2)):
        assert done.returncode == 0, done.stderr
    newest = max((folder / "runs").iterdir(), key=lambda run: int(run.name[4:]))
    return [json.loads((newest / f"wire.{k}.json").read_text()) for k in (0, 1)]


def gathered(step: Counts) -> int:
    """How often weights were gathered for the update."""
    return sum(calls for name, (calls, _) in step.items() if name.startswith("update: allgather"))


def slow(*strategies: str) -> list[object]:
    """Strategies that only the slow set tries here."""
    return [pytest.param(strategy, marks=pytest.mark.slow) for strategy in strategies]


@pytest.mark.parametrize("strategy", ["fsdp2", *slow("ddp", "fsdp", "fsdp2, layer by layer")])
@pytest.mark.slow
def test_the_gradient_does_not_grow_with_the_base(
    bases: dict[str, str], tmp_path: Path, strategy: str
) -> None:
    small, large = (count(tmp_path, bases[name], STRATEGIES[strategy])[0][1] for name in SIZES)
    assert not [call for call in large if "scatter" in call], "no gradient of the base"
    paced = small["rest: allreduce"][0] == 2  # one number says that all rollouts have ended
    assert paced == (strategy == "fsdp2, layer by layer")
    assert small["rest: allreduce"] == [1 + paced, 4 * 256 * 4 + 8 * paced]
    assert large["rest: allreduce"] == small["rest: allreduce"]
    assert large["rest: allgather"][1] < 1e6
    if strategy == "ddp":
        assert not [call for call in large if "base" in call or "update" in call], "no weights"
    if strategy == "fsdp2":
        assert small["rest: allgather_base"][0] == 4 + 1, "each layer and the rest once"
        assert not [call for call in small if call.startswith("rollout")], "none for a token"
    if paced:
        tokens = small["rollout: allreduce"][0]
        assert small["rollout: allgather_base"][0] == 4 * tokens + 1, "each layer for each token"


@pytest.mark.parametrize(
    "strategy", ["fsdp2", *slow("fsdp2, layer by layer", "fsdp", "FULL_SHARD")]
)
def test_a_process_without_signal_keeps_up_with_one_that_has_some(
    bases: dict[str, str], tmp_path: Path, strategy: str
) -> None:
    reward = {"class_path": "tests.distributed.helpers.SignalIn", "init_args": {"process": 1}}
    how = STRATEGIES.get(strategy, FULL_SHARD)
    # 16 completions with an advantage in process 1, some micro-batches; none in process 0
    processes = count(tmp_path, bases["base"], how, rewards=[{"reward": reward}])
    for first, second in zip(*processes, strict=True):
        assert first == second, "the same calls of the same size"
        assert gathered(first) > 2 * 5, "for more than one micro-batch"


def test_a_step_without_any_signal_gathers_nothing_for_its_update(
    bases: dict[str, str], tmp_path: Path
) -> None:
    reward = {"class_path": "tests.distributed.helpers.SignalIn", "init_args": {"process": 7}}
    processes = count(tmp_path, bases["base"], "fsdp2", rewards=[{"reward": reward}])
    for steps in processes:
        for step in steps:
            assert step["update: allreduce"][0] == 1, "one number: nobody needs a pass"
            assert not gathered(step)
