"""Claim: 8-bit optimizer state trains the vectors as well as 32-bit state, in fewer bytes.

    python benchmarks/eight_bit.py

The quickstart with `bitsandbytes.optim.AdamW8bit` and with `torch.optim.AdamW`, five seeds each, in
turn; the curve of each, its mean and range over the seeds, goes beside the results.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml
from common import ROOT, fit, summary, write_json
from matplotlib.figure import Figure

from steer_lightning.results.report.series import read_series, trailing_mean

ARMS = {
    "AdamW8bit": {"class_path": "bitsandbytes.optim.AdamW8bit", "init_args": {"min_8bit_size": 0}},
    "AdamW": {"class_path": "torch.optim.AdamW", "init_args": {}},
}


def main() -> None:
    """Runs both optimizers with all seeds, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: the quickstart's own")
    results = ROOT / "benchmarks/results/eight_bit.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    settings = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())["model"]["optimizer"]
    rate = {**settings["init_args"], "weight_decay": 0.0}
    rate.pop("min_8bit_size", None)
    runs: list[dict[str, object]] = []
    curves: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for name, arm in ARMS.items():
                arm = {**arm, "init_args": {**arm["init_args"], **rate}}  # type: ignore[dict-item]
                file = Path(folder) / f"{name}.yaml"
                file.write_text(yaml.safe_dump({"model": {"optimizer": arm}}))
                words = [f"--config={file}", f"--seed_everything={seed}"]
                words += [f"--trainer.max_steps={args.steps}"] if args.steps else []
                run = fit(Path(folder) / f"{name}-{seed}", *words)
                facts = summary(run)
                found = {
                    "optimizer": name,
                    "seed": seed,
                    "state_bytes": facts["optimizer"]["state_bytes"],
                    "moments": facts["optimizer"]["moments"],
                    "before": facts["accuracy_before"]["arithmetic"],
                    "after": facts["accuracy_after"]["arithmetic"],
                }
                runs.append(found)
                curves[name].append([value for _, value in read_series(run)["reward/mean"]])
                print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    write_json(args.json, {"runs": runs})
    draw(curves, args.json.with_suffix(".png"))


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Mean and range over the seeds, for each optimizer."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, rows in curves.items():
        smooth = [trailing_mean(row) for row in rows]
        columns = list(zip(*smooth, strict=True))
        steps = range(1, len(columns) + 1)
        axes.plot(steps, [sum(column) / len(column) for column in columns], label=name)
        axes.fill_between(steps, list(map(min, columns)), list(map(max, columns)), alpha=0.2)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("reward, mean of 5 steps")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
