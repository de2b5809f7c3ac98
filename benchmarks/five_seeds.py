"""Claim: the quickstart goes from at most 40 % to at least 90 % on held-out problems, for any seed.

    python benchmarks/five_seeds.py

Each seed is a run of the real command line, with the settings of `configs/quickstart.yaml`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import ROOT, fit, summary, write_json
from matplotlib.figure import Figure

from steer_lightning.results.report.series import read_series, trailing_mean


def main() -> None:
    """Runs all seeds, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    results = ROOT / "benchmarks/results/five_seeds.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            run = fit(Path(folder) / str(seed), f"--seed_everything={seed}")
            facts = summary(run)
            found = {
                "seed": seed,
                "before": facts["accuracy_before"]["arithmetic"],
                "after": facts["accuracy_after"]["arithmetic"],
                "seconds": facts["seconds"],
            }
            runs.append(found)
            print(
                f"seed {seed}  accuracy {found['before']:.3f} -> {found['after']:.3f}  "
                f"{found['seconds']:.0f} s",
                flush=True,
            )
            steps, rewards = zip(*read_series(run)["reward/mean"], strict=True)
            axes.plot(steps, trailing_mean(list(rewards)), label=f"seed {seed}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("reward, mean of 5 steps")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_json(args.json, {"runs": runs})
    figure.savefig(args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
