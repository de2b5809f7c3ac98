"""What goes over the wire in a training step, call by call, for two sizes of the base.

    python benchmarks/wire.py --processes 2

Runs the real command line with real processes (gloo on the CPU) and counts every collective call
with its bytes, of the first process. The gradient of the vectors is the only one that is ever sent,
once a step, and its size does not depend on the base's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parent.parent
STRATEGIES: dict[str, Any] = {
    "ddp": "ddp",
    "fsdp2": "fsdp2",
    "fsdp2, layer by layer": {
        "class_path": "steer_lightning.strategy.SteeringFSDP2",
        "init_args": {"gather_for_rollouts": False},
    },
    "fsdp": "fsdp",
}
SIZES = {"base": 64, "8 x": 512}
"""Widths of the base's MLP, by name; all else is the same, the vectors, too."""

NEW_TOKENS = 8


class Wire(TorchDispatchMode):
    """Counts collective calls and their bytes: of what this process hands in."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "rest"
        self.calls: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._overloadpacket.__name__.strip("_")
            # an all-gather's first argument is what it makes
            sent = args[1] if "allgather" in name else args[0]
            tensors = [x for x in tree_leaves(sent) if isinstance(x, torch.Tensor)]
            self.calls[self.phase, name] += 1
            self.bytes[self.phase, name] += sum(x.numel() * x.element_size() for x in tensors)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """What happens in the block belongs to a phase."""
        self.phase, before = phase, self.phase
        try:
            yield
        finally:
            self.phase = before


class CountWire(Callback):
    """Writes each process's counts of each step to `wire.N.json` in the run's folder."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Tells rollouts and updates apart."""
        self._steps: list[dict[str, Any]] = []
        self._watch(pl_module.engine, "generate", "rollout")
        for part in ("plan", "accumulate"):
            self._watch(pl_module.batch_gradient.__class__, part, "update")

    def _watch(self, owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.wire.of(phase):
                return original(*args, **kwargs)

        setattr(owner, name, watched)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The first evaluation is not counted."""
        self.wire = Wire()

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        """Begins to count."""
        self.wire = Wire()
        self.wire.__enter__()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Ends."""
        self.wire.__exit__(None, None, None)
        calls, sizes = self.wire.calls, self.wire.bytes
        self._steps.append({f"{a}: {b}": [calls[a, b], sizes[a, b]] for a, b in sorted(calls)})
        path = Path(trainer.default_root_dir) / f"wire.{trainer.global_rank}.json"
        path.write_text(json.dumps(self._steps))


def make_base(folder: Path, width: int) -> str:
    """A random Qwen2 with 4 layers of width 64."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from steer_lightning.testing import VOCABULARY, byte_tokenizer

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def settings(folder: Path, base: str, strategy: Any, processes: int) -> dict[str, Any]:
    """Of a run whose steps are counted."""
    letters = {"class_path": "steer_lightning.rewards.FormatReward"}
    letters |= {"init_args": {"pattern": "[a-m]"}}
    return {
        "model": {
            "base": base,
            "sampling": {"group_size": 4, "max_new_tokens": NEW_TOKENS},
            "rewards": [{"reward": letters}],
            "tokens_per_micro_batch": 64,
        },
        "data": {
            "train": {"class_path": "steer_lightning.data.Arithmetic"},
            "template": {"class_path": "steer_lightning.data.PlainTemplate"},
            "batch_size": 8,
        },
        "trainer": {
            "default_root_dir": str(folder / "runs"),
            "accelerator": "cpu",
            "devices": processes,
            "strategy": strategy,
            "max_steps": 2,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "benchmarks.wire.CountWire"}],
        },
    }


def count(folder: Path, base: str, strategy: Any, processes: int) -> dict[str, list[int]]:
    """Calls and bytes of the second step of a run."""
    config = settings(folder, base, strategy, processes)
    (folder / "wire.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "steer_lightning", "fit", "--config"]
    command += [str(folder / "wire.yaml"), "--ckpt_path=new"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    newest = max((folder / "runs").glob("run-*/wire.0.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, list[int]] = json.loads(newest.read_text())[1]
    return found


def main() -> None:
    """Counts, prints a table, writes JSON."""
    from common import write_json  # runs import this file as `benchmarks.wire`, without its folder

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/wire.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"processes": options.processes, "new_tokens": NEW_TOKENS}
    result["counts"] = {}
    with tempfile.TemporaryDirectory() as name:
        for size, width in SIZES.items():
            base = make_base(Path(name) / f"base-{width}", width)
            for strategy in options.strategies:
                found = count(Path(name), base, STRATEGIES[strategy], options.processes)
                result["counts"].setdefault(strategy, {})[size] = found
                print(f"{strategy}, {size}")
                for key, (calls, sent) in found.items():
                    print(f"  {key:<32} {calls:>4} calls {sent:>10,} bytes")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
