"""Which learning rate is best for which model, in units of the change that vectors make.

    python benchmarks/unit_rates.py --model quickstart
    python benchmarks/unit_rates.py --model models/gemma3-270m --data FOLDER
    python benchmarks/unit_rates.py --model models/smollm2-135m-instruct --data FOLDER
    python benchmarks/unit_rates.py --model models/smollm2-135m-instruct --data FOLDER --form
    python benchmarks/unit_rates.py --draw docs/images/units.png    # the results, as a picture

The configuration of each model is trained with several rates, side by side in one `sweep`, with
`scale: kl`. Its unit is that of `scale: rms` times a factor, the same in all layers, which is in
the result; so a rate in units of the stream is the product of a rate here and the factor. Figures
are mean rewards on training problems, over all steps and over the last third of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from common import ROOT, finished, steps_of, write_json
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
NEWLINES = [198, 1116]  # SmolLM2's tokens for one and for two line breaks
CASES: dict[str, tuple[str, int, list[str]]] = {
    "quickstart": ("quickstart.yaml", 60, []),
    "gemma3-270m": ("gsm8k/gemma3-270m-cpu.yaml", 25, []),
    "smollm2-135m-instruct-form": (
        "gsm8k/gemma3-270m-cpu.yaml",
        25,
        [f"--model.sampling.eos_token_ids={NEWLINES}"],
    ),
    "smollm2-135m-instruct": ("svamp/smollm2-135m-cpu.yaml", 20, []),
}
"""Configuration, number of steps and other settings for each case.

`--form` trains a model on Gemma's task: a short number on a line of its own.
"""


def sweep(args: argparse.Namespace, name: str, root: Path) -> None:
    """Trains with all rates; goes on where it was interrupted."""
    config, steps, settings = CASES[name]
    words = [f"--config={ROOT / 'configs' / config}", "--model.steering.scale=kl", *settings]
    words += [f"--trainer.default_root_dir={root}", "--trainer.callbacks=[]"]
    words += [f"--trainer.max_steps={args.steps or steps}", f"--seed_everything={args.seed}"]
    words += [f"--grid=model.optimizer.init_args.lr={list(args.rates)}"]
    if args.model != "quickstart":
        words += [f"--model.base={args.model}"]
    if args.data:
        words += [f"--data.{part}.path={args.data}" for part in ("train", "val")]
    subprocess.run([sys.executable, "-m", "steer_lightning", "sweep", *words], check=True)


def result_of(root: Path) -> dict[str, Any]:
    """Rewards and entropies of an experiment."""
    rows = steps_of(root)
    rewards = [round(float(row["reward/mean"]), 4) for row in rows]
    return {
        "mean": round(statistics.fmean(rewards), 4),
        "last_third": round(statistics.fmean(rewards[-(len(rewards) // 3) :]), 4),
        "rewards": rewards,
        "entropies": [round(float(row["completion/entropy"]), 4) for row in rows],
    }


def factor_of(run: Path) -> float:
    """The unit of `scale: kl` as a multiple of the size of the stream."""
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    found: torch.Tensor = state["policy.steering.unit"] / state["policy.steering.stream"]
    return float(found[0])


def draw(path: Path) -> None:
    """Draws the mean reward by rate, in units of the stream and in those of `scale: kl`."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for name in CASES:
        file = ROOT / f"benchmarks/results/unit_rates_{name}.json"
        if not file.exists():
            continue
        found = json.loads(file.read_text())
        rates = [float(rate) for rate in found["rates"]]
        means = [values["mean"] for values in found["rates"].values()]
        for axes, factor in zip(panels, (found["factor"], 1.0), strict=True):
            axes.plot([rate * factor for rate in rates], means, "o-", label=name)
    for axes, unit in zip(panels, ("rms: sizes of the stream", "kl"), strict=True):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"learning rate, scale: {unit}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean reward over the run")
    panels[1].legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Trains, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="quickstart, or a folder")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="only draw what has been measured")
    parser.add_argument("--data", help="folder of the problems; default: the hub")
    parser.add_argument("--form", action="store_true", help="train the form of Gemma's task")
    parser.add_argument("--steps", type=int, help="default: by the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--work", type=Path, default=Path("runs/unit-rates"), help="for the runs")
    parser.add_argument(
        "--json", type=Path, help="file for the results; default: one for each model in results/"
    )
    args = parser.parse_args()
    if args.draw:
        draw(args.draw)
        return
    if args.model is None:
        parser.error("--model or --draw is needed")
    name = Path(args.model).name + ("-form" if args.form else "")
    root = args.work.absolute() / f"{name}-{args.seed}"
    sweep(args, name, root)
    found = {f"{rate:g}": result_of(root / f"lr={rate}") for rate in args.rates}
    factor = factor_of(finished(root / f"lr={args.rates[0]}"))
    print(f"{name}: one unit is {factor:.3g} times the stream")
    for rate, values in found.items():
        print(f"{rate:>6}  mean {values['mean']:.3f}  last third {values['last_third']:.3f}")
    args.json = args.json or ROOT / f"benchmarks/results/unit_rates_{name}.json"
    write_json(
        args.json,
        {"seed": args.seed, "factor": factor, "rates": found},
    )


if __name__ == "__main__":
    main()
