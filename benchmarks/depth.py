"""Do vectors survive a change of the base's depth?

    python benchmarks/depth.py            # three seeds
    python benchmarks/depth.py --seeds 1 --bases "layer 2 twice" "without layer 2"

`scripts/change_depth.py` makes bases from the quickstart's, with one layer repeated, with one
predicted between two others as in LESA, and with one left out. The quickstart's vectors are brought
there by `vectors transplant --map`: every layer takes the vector of the layer that it is (`map`),
an added layer none (`added none`), or layer k the vector k, as if nothing had changed (`index`).
`evaluate` answers 200 test problems, 4 samples each, on each base with each of these, and without
vectors. Runs that `--folder` already holds are not trained again; by default they are those of
`description_length.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from common import ROOT, evaluate, trained, write_json

EPOCHS = 200
"""Of LESA's predictor; with the authors' 10 it hardly learns from this model's few rows."""
DEPTH = 4
BASE = "none"
"""Name of the arm without vectors."""

Row = dict[str, Any]


def bases() -> dict[str, dict[str, str]]:
    """For each base its own map under `base`, and those of the vectors."""
    whole = [str(layer) for layer in range(DEPTH)]
    found: dict[str, dict[str, str]] = {"as it is": {"base": ",".join(whole)}}
    found["as it is"]["map"] = found["as it is"]["base"]
    for layer in whole:
        place = int(layer) + 1
        maps = {"base": layer, "map": layer, "added none": "-"}
        found[f"layer {layer} twice"] = _inserted(maps, whole, place)
    for layer in whole[:-1]:
        place = int(layer) + 1
        maps = {"base": "+", "map": layer, "added none": "-"}
        found[f"predicted behind {layer}"] = _inserted(maps, whole, place)
    for layer in whole:
        rest = ",".join(other for other in whole if other != layer)
        index = ",".join(whole[:-1])
        found[f"without layer {layer}"] = {"base": rest, "map": rest, "index": index}
    found[f"without layer {DEPTH - 1}"].pop("index")  # the same as by the map
    return found


def _inserted(maps: dict[str, str], whole: list[str], place: int) -> dict[str, str]:
    made = {name: ",".join([*whole[:place], entry, *whole[place:]]) for name, entry in maps.items()}
    index = ",".join([*whole, "-"])
    # behind the last layer, it is that of an added layer without a vector
    return made if index in made.values() else {**made, "index": index}


def make_base(places: str, folder: Path) -> None:
    """Runs the script, unless the folder is there."""
    if folder.exists():
        return
    script = str(ROOT / "scripts/change_depth.py")
    words = ["quickstart", str(folder), f"--map={places}", f"--epochs={EPOCHS}"]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def measure(seed: int, args: argparse.Namespace) -> list[Row]:
    """Rows of one seed."""
    from steer_lightning.cli.vectors import run as vectors

    folder = args.folder / f"seed-{seed}"
    run = trained(folder, seed, args.steps)
    found = []
    for name in args.bases:
        maps = bases()[name]
        base = args.folder / "bases" / name.replace(" ", "-")
        make_base(maps["base"], base)
        output = folder / "depth" / base.name
        output.mkdir(parents=True, exist_ok=True)
        files = {}
        for way, places in maps.items():
            if way == "base":
                continue
            file = output / f"{way.replace(' ', '-')}-vectors.safetensors"
            words = ["vectors", "transplant", str(run), f"--base={base}", f"--map={places}"]
            with redirect_stdout(StringIO()):
                vectors([*words, f"--output={file}", "--overwrite"])
            files[way] = str(file)
        words = [f"--base={base}", f"--seed={seed}"]
        scores = evaluate(output / "evaluation", list(files.values()), args.problems, *words)
        for way, score in zip([BASE, *files], scores.values(), strict=True):
            row = {"seed": seed, "base": name, "map": maps["base"], "vectors": way}
            found.append({**row, **{key: score[key] for key in ("value", "low", "high")}})
            print(f"seed {seed}  {name:<20} {way:<10} {100 * score['value']:.1f} %", flush=True)
    return found


def main() -> None:
    """Runs, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--steps", type=int, default=0, help="of each run; 0: the quickstart's own")
    parser.add_argument("--problems", type=int, default=200, help="test problems to answer")
    parser.add_argument("--bases", nargs="+", choices=bases(), default=[*bases()], metavar="BASE")
    folder = Path("runs/description_length")
    parser.add_argument("--folder", type=Path, default=folder, help="where runs and bases lie")
    results = ROOT / "benchmarks/results/depth.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    # what an earlier call measured stays, unless this one measures it again
    before = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    rows = [r for r in before if r["base"] not in args.bases or r["seed"] >= args.seeds]
    for seed in range(args.seeds):
        rows += measure(seed, args)
        write_json(args.json, {"problems": args.problems, "epochs": EPOCHS, "rows": rows})


if __name__ == "__main__":
    main()
