"""The quickstart with each algorithm of `configs/algorithms/`: accuracy before and after.

    python benchmarks/algorithms.py

Each is one run of the real command line, with the settings of `configs/quickstart.yaml` and that
overlay, none of them tuned: a single seed shows that an algorithm learns, not which one is better.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, fit, summary, write_json


def main() -> None:
    """Runs all, prints and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of overlays; default: none, and then each")
    parser.add_argument("--seed", type=int, default=0)
    results = ROOT / "benchmarks/results/algorithms.json"
    parser.add_argument("--json", type=Path, default=results, help="file for the results")
    args = parser.parse_args()
    overlays = sorted(path.stem for path in (ROOT / "configs/algorithms").glob("*.yaml"))
    overlays.remove("upft")  # it has no reward to learn from
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or ["", *overlays]:
            config = ROOT / f"configs/algorithms/{name}.yaml"
            words = ["--config", str(config)] if name else []
            run = fit(Path(folder) / f"of_{name}", *words, f"--seed_everything={args.seed}")
            facts = summary(run)
            found = {
                "overlay": name,
                "before": facts["accuracy_before"]["arithmetic"],
                "after": facts["accuracy_after"]["arithmetic"],
                "steps": facts["num_steps"],
                "seconds": facts["seconds"],
            }
            runs.append(found)
            print(
                f"{name or 'quickstart.yaml alone'}: {found['before']:.3f} -> "
                f"{found['after']:.3f}, {found['seconds']:.0f} s",
                flush=True,
            )
            write_json(args.json, {"seed": args.seed, "runs": runs})


if __name__ == "__main__":
    main()
