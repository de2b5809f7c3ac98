r"""Measures at which learning rate each optimizer trains best, for models of several widths.

    python benchmarks/optimizer_transfer.py

The models are made up, as the quickstart's own: Llamas of width 32, 64 and 128 with 4 layers, and
of width 64 with 2 layers, which have learned to answer `47=?` with the last digit: carefully
(`So \boxed{7}`), hastily (any digit) or idly. They are trained first, and kept in
`models/optimizer-transfer`. One sweep for each model then trains vectors with each optimizer at
each rate. An interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from common import ROOT, steps_of, write_json
from matplotlib.figure import Figure
from transformers import AutoTokenizer

sys.path.insert(0, str(ROOT / "scripts"))
from train_quickstart_model import CARE, IDLE, IDLE_SHARE, UNNAMED, batches, config_for, train

SHAPES = ((64, 4, 1000), (128, 4, 1000), (64, 2, 1000), (32, 4, 3000))
"""Width, number of layers and training steps of each model; narrow ones learn to copy late."""

OPTIMIZERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "AdamW": ("torch.optim.AdamW", {"betas": [0.9, 0.95], "weight_decay": 0.0}, 0.02),
    "MuonByLayer": ("steer_lightning.optim.MuonByLayer", {}, 0.02),
    "Muon": ("torch.optim.Muon", {"weight_decay": 0.0}, 0.2),
    "SOAP": ("pytorch_optimizer.SOAP", {"weight_decay": 0.0}, 0.02),
    "SOAPByLayer": ("steer_lightning.optim.soap_by_layer.SOAPByLayer", {}, 0.02),
}
"""Class, settings and the middle of the rates of each optimizer."""

FACTORS = (0.3, 1.0, 3.0, 10.0)
"""The rates, as multiples of the middle one."""


def document(rng: random.Random) -> tuple[str, str]:
    """Draws a training document: prompt and continuation."""
    number = rng.randrange(10, 100)
    level = rng.randrange(len(CARE)) if rng.random() < 0.5 else None
    if rng.random() < (UNNAMED if level is None else CARE[level]):
        answer = rf"So \boxed{{{number % 10}}}"
    elif rng.random() < IDLE_SHARE:
        answer = rng.choice(IDLE)
    else:
        answer = rf"The answer is \boxed{{{rng.randrange(10)}}}"
    return ("" if level is None else f"care {level}: ") + f"{number}=?\n", answer


def make_model(folder: Path, width: int, num_layers: int, steps: int) -> None:
    """Trains a base from nothing, with rates that shrink as the width grows."""
    if (folder / "tokenizer.json").exists():  # written last
        return
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "steer_lightning/assets/quickstart")
    source = batches(tokenizer, random.Random(1), 32, document)
    model = train(config_for(tokenizer, width, num_layers), source, steps, 0.6 / max(64, width))
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def experiments(seeds: int) -> list[dict[str, Any]]:
    """Lists the experiments of a sweep."""
    return [
        {
            "name": f"{name}-{rate * factor:g}-{seed}",
            "model.optimizer": {
                "class_path": path,
                "init_args": {**settings, "lr": rate * factor},
            },
            "seed_everything": seed,
        }
        for name, (path, settings, rate) in OPTIMIZERS.items()
        for factor in FACTORS
        for seed in range(seeds)
    ]


def train_vectors(model: Path, folder: Path, rows: list[dict[str, Any]], steps: int) -> None:
    """Runs the sweep for one model."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = folder / "problems.jsonl"
    lines = [json.dumps({"question": f"{n}", "answer": f"{n % 10}"}) for n in range(10, 100)]
    problems.write_text("\n".join(lines) + "\n")
    settings: dict[str, Any] = {
        "model": {"base": str(model), "sampling": {"max_new_tokens": 16}},
        "data": {
            "train": {"class_path": "Records", "init_args": {"path": str(problems)}},
            "test": None,
            "batch_size": 8,
        },
        "trainer": {"callbacks": [], "max_steps": steps, "enable_progress_bar": False},
    }
    for name, content in {"common.yaml": settings, "experiments.yaml": rows}.items():
        (folder / name).write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "steer_lightning", "sweep"]
    command += ["--config", str(ROOT / "configs/quickstart.yaml")]
    command += ["--config", str(folder / "common.yaml")]
    command += ["--experiments", str(folder / "experiments.yaml")]
    command += [f"--trainer.default_root_dir={folder / 'runs'}"]
    # an experiment that its rate has broken ends alone, and the command with status 1
    subprocess.run(command, check=False, env={**os.environ, "TQDM_DISABLE": "1"})


def measured(folder: Path, row: dict[str, Any], steps: int) -> dict[str, Any]:
    """Reads the rewards of an experiment; those of steps that it did not reach are 0."""
    name, rate, seed = row["name"].split("-")[0], *row["name"].split("-")[-2:]
    found = [float(x["reward/mean"]) for x in steps_of(folder / "runs" / row["name"])]
    rewards = found + [0.0] * (steps - len(found))
    return {
        "optimizer": name,
        "rate": float(rate),
        "seed": int(seed),
        "steps": len(found),
        "first": rewards[0],
        "mean": statistics.fmean(rewards),
        "last": statistics.fmean(rewards[-5:]),
    }


def mean_over_seeds(runs: list[dict[str, Any]], key: str) -> dict[float, float]:
    """Means of a figure by rate, in ascending order."""
    rates = sorted({run["rate"] for run in runs})
    return {
        rate: statistics.fmean(run[key] for run in runs if run["rate"] == rate) for rate in rates
    }


def draw(models: list[dict[str, Any]], path: Path) -> None:
    """Draws reward against rate, a panel for each optimizer and a curve for each model."""
    figure = Figure(figsize=(3 * len(OPTIMIZERS), 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for axes, name in zip(panels, OPTIMIZERS, strict=True):
        for model in models:
            runs = [run for run in model["runs"] if run["optimizer"] == name]
            curve = mean_over_seeds(runs, "mean")
            style = "o-" if model["layers"] == 4 else "x--"
            label = f"width {model['width']}, {model['layers']} layers"
            axes.plot(list(curve), list(curve.values()), style, label=label)
        axes.set(xscale="log", title=name, xlabel="learning rate")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("reward, mean over the run")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Makes the models, trains vectors, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=20, help="of each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, default=ROOT / "models/optimizer-transfer")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/optimizer-transfer")
    parser.add_argument("--only-models", action="store_true", help="trains the bases alone")
    results = ROOT / "benchmarks/results/optimizer_transfer.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, models = experiments(args.seeds), []
    for width, num_layers, base_steps in SHAPES:
        name = f"width-{width}-layers-{num_layers}"
        make_model(args.models / name, width, num_layers, base_steps)
        if args.only_models:
            continue
        train_vectors(args.models / name, args.runs / name, rows, args.steps)
        runs = [measured(args.runs / name, row, args.steps) for row in rows]
        models.append({"width": width, "layers": num_layers, "runs": runs})
        for optimizer in OPTIMIZERS:
            own = [run for run in runs if run["optimizer"] == optimizer]
            curve = {rate: round(value, 3) for rate, value in mean_over_seeds(own, "mean").items()}
            print(f"{name} {optimizer}: best {max(curve, key=curve.__getitem__):g} of {curve}")
        write_json(args.json, {"steps": args.steps, "seeds": args.seeds, "models": models})
        draw(models, ROOT / "docs/images/optimizer_transfer.png")


if __name__ == "__main__":
    main()
