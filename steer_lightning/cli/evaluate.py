"""The command `evaluate`: answers benchmarks with and without vectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from steer_lightning.cli import interruptible
from steer_lightning.cli.options import read_options
from steer_lightning.cli.run_settings import given_options, settings_of_runs, texts
from steer_lightning.evaluation.capability import capability_as_text
from steer_lightning.evaluation.job import Evaluation
from steer_lightning.evaluation.processes import connected_processes
from steer_lightning.evaluation.refinement_cost import refinements_as_text
from steer_lightning.evaluation.results import as_text
from steer_lightning.evaluation.side_effects import side_effects_as_text
from steer_lightning.results.report import (
    draw_budget,
    draw_comparison,
    draw_dose,
    draw_pass_curve,
    drawn,
    has_doses,
)
from steer_lightning.system.collectives import rank
from steer_lightning.system.printable import one_line


def run(words: Sequence[str]) -> None:
    """Runs `evaluate` with the settings of the run that wrote the vectors, unless others are given.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration.
    """
    words = words[1:]
    given = given_options(words)
    of_run, files = settings_of_runs(texts(given.get("vectors")), given)
    options = read_options(
        [f"--config={json.dumps(of_run)}", *words] if of_run else words,
        Evaluation,
        prog="steer-lightning evaluate",
        description="Answers benchmarks with a base model, with and without steering.",
    )
    evaluation = Evaluation(**options)
    folder = evaluation.store.folder
    with connected_processes():
        if rank() > 0:  # otherwise every process would print the same messages
            logging.getLogger("steer_lightning").setLevel(logging.ERROR)
        elif of_run:
            names = ", ".join(map(str, files))
            print(one_line(f"settings taken from {names}, unless given: {', '.join(of_run)}"))
        with interruptible(f"the same command continues from {folder}"):
            results = evaluation.run()
        if rank() == 0:
            _tell(evaluation, results)


def _tell(evaluation: Evaluation, results: dict[str, Any]) -> None:
    """Prints the table and the paths of the evaluation's files."""
    print(f"\n{as_text(results['rows'])}\n")
    print("Shares in percent, with 95 % bootstrap intervals over problems.")
    if results["strata"]:
        print("\nStrata by the base's pass rate in other samples of each problem:\n")
        print(as_text(results["strata"]))
    curves, effects = results["capability"], results["side_effects"]
    if curves:
        print(f"\n{capability_as_text(curves)}")
    if results["refinements"]:
        print(f"\n{refinements_as_text(results['refinements'])}")
    if effects is not None:
        print(f"\nSide effects: {side_effects_as_text(effects)}")
    if curves or results["strata"] or results["refinements"] or effects is not None:
        print()
    store = evaluation.store
    print(f"figures:     {one_line(store.results)}")
    print(f"completions: {one_line(store.completions)}")
    print(f"picture:     {one_line(drawn(draw_comparison, store.folder))}")
    if curves:
        print(f"pass@k:      {one_line(drawn(draw_pass_curve, store.folder))}")
    if has_doses(effects):
        print(f"scales:      {one_line(drawn(draw_dose, store.folder))}")
    if results["budgets"]:
        print(f"budgets:     {one_line(drawn(draw_budget, store.folder))}")
