"""How many bits do trained vectors need? Accuracy against the bytes that describe them.

    python benchmarks/description_length.py            # three seeds
    python benchmarks/description_length.py --seeds 1

The quickstart's vectors, trained once for each seed, are quantised to several numbers of bits and
sparsified to several shares (`steer-lightning vectors quantise`), and `evaluate` answers the same
200 test problems, 4 samples each, with each of the resulting files. Runs that `--folder` already
holds are not trained again.

Beside the accuracy p stand the bits of a two-part code. Its second part sends the right answer of a
problem to somebody who has the model, the vectors and the random seed, and so the model's own
answer: whether that is right, and if it is not, which of the M possible answers is,

    L(answer) = H(p) + (1 - p) log2 M,  H(p) = - p log2 p - (1 - p) log2 (1 - p).

The first part, the vectors, pays off from n problems on, n = L(vectors) / (L_base - L_steered).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from common import ROOT, evaluate, trained, write_json
from matplotlib.figure import Figure

from steer_lightning.steering import load_vectors

BITS = (1, 2, 3, 4, 6, 8, 16, 32)
SHARES = (1.0, 0.5, 0.25, 0.1)
NUM_ANSWERS = 199
"""Sums and differences of the quickstart's problems are between 0 and 198."""

Row = dict[str, Any]


def answer_bits(accuracy: float, num_answers: int = NUM_ANSWERS) -> float:
    """Bits that a right answer takes beside a model of this accuracy."""
    parts = (accuracy, 1 - accuracy)
    verdict = -sum(part * math.log2(part) for part in parts if part > 0)
    return verdict + (1 - accuracy) * math.log2(num_answers)


def break_even(bits: float, base: float, steered: float) -> float | None:
    """Number of problems from which on the vectors pay off; None if they never do."""
    saved = answer_bits(base) - answer_bits(steered)
    return bits / saved if saved > 0 else None


def quantise(run: Path, folder: Path) -> dict[str, tuple[int, float, int]]:
    """Writes all files of a run; returns bits, share and length of the description by name."""
    # in this process: an import of torch for each of 32 files would take minutes
    from steer_lightning.cli.vectors import run as vectors

    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for bits in BITS:
        for share in SHARES:
            name = f"b{bits}-k{share:g}"
            file = folder / f"{name}.safetensors"
            words = ["vectors", "quantise", str(run), f"--bits={bits}", f"--keep={share}"]
            with redirect_stdout(StringIO()):
                vectors([*words, f"--output={file}", "--overwrite"])
            length = int(load_vectors(file).metadata["description_bits"])
            found[name] = bits, share, length
    return found


def measure(seed: int, args: argparse.Namespace) -> list[Row]:
    """Rows of one seed, the base first."""
    folder = args.folder / f"seed-{seed}"
    run = trained(folder, seed, args.steps)
    made = quantise(run, folder / "quantised")
    files = [str(folder / "quantised" / f"{name}.safetensors") for name in made]
    scores = evaluate(folder / "evaluation", files, args.problems, f"--seed={seed}")
    base = scores["base"]["value"]
    found = []
    for arm, score in scores.items():
        bits, share, length = made.get(arm, (0, 0.0, 0))
        row = {"seed": seed, "bits": bits, "keep": share, "description_bits": length}
        row |= {key: score[key] for key in ("value", "low", "high")}
        row["answer_bits"] = answer_bits(score["value"])
        row["break_even"] = break_even(length, base, score["value"])
        found.append(row)
        print(f"{arm:>10} {length:>6} bits  {100 * score['value']:.1f} %", flush=True)
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against bytes: means over the seeds, and the intervals of all seeds together."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for share in SHARES:
        points = []
        for bits in BITS:
            mine = [row for row in rows if (row["bits"], row["keep"]) == (bits, share)]
            mean = sum(row["value"] for row in mine) / len(mine)
            lowest, highest = min(row["low"] for row in mine), max(row["high"] for row in mine)
            points.append((mine[0]["description_bits"] / 8, mean, lowest, highest))
        across, means, lows, highs = zip(*points, strict=True)
        below = [100 * (mean - low) for mean, low in zip(means, lows, strict=True)]
        above = [100 * (high - mean) for mean, high in zip(means, highs, strict=True)]
        heights = [100 * mean for mean in means]
        label = f"{share:.0%} of the numbers kept"
        axes.errorbar(across, heights, (below, above), marker="o", ms=4, capsize=2, label=label)
        if share == 1:
            for bits, x, y in zip(BITS, across, heights, strict=True):
                shown = f"{bits} bit{'s' if bits > 1 else ''}"
                place = {"textcoords": "offset points", "xytext": (0, -14), "ha": "center"}
                axes.annotate(shown, (x, y), fontsize=7, **place)
    base = [row["value"] for row in rows if row["bits"] == 0]
    level = 100 * sum(base) / len(base)
    axes.axhline(level, color="gray", linestyle="--", linewidth=1, label="base, 0 bytes")
    axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_xlabel("bytes that describe the vectors")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Runs, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: the quickstart's own")
    parser.add_argument("--problems", type=int, default=200, help="test problems to answer")
    folder = Path("runs/description_length")
    parser.add_argument("--folder", type=Path, default=folder, help="where runs and files lie")
    results = ROOT / "benchmarks/results/description_length.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    rows = [row for seed in range(args.seeds) for row in measure(seed, args)]
    write_json(args.json, {"num_answers": NUM_ANSWERS, "problems": args.problems, "rows": rows})
    draw(rows, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
