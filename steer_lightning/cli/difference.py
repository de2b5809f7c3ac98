"""The command `difference`: makes vectors without training, from a model's own completions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from steer_lightning.cli.options import read_options
from steer_lightning.data import PromptDataModule
from steer_lightning.errors import ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import DIFFERENCE, RUNS
from steer_lightning.training.difference import FILES, Difference, Settings, as_text
from steer_lightning.training.trainer_options import check_accelerator


def device_of(trainer: Mapping[str, Any]) -> str:
    """Returns the device that `trainer.accelerator` stands for with one process.

    Raises:
        ConfigError: If this machine has no such device.
    """
    accelerator = trainer.get("accelerator", "auto")
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    check_accelerator(accelerator)
    if accelerator == "auto":
        return "cuda" if there["cuda"] else "cpu"
    device = "cuda" if accelerator == "gpu" else str(accelerator)
    if not there.get(device):
        known = ", ".join(name for name in there if there[name])
        rule = f"must be auto, or a device of this machine: {known}"
        raise ConfigError("trainer.accelerator", accelerator, rule=rule)
    return device


def _add_configuration(parser: ArgumentParser) -> None:
    """Adds the options of `fit`; of the trainer's options, only two are read."""
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of all randomness.")
    parser.add_class_arguments(SteeringModule, "model")
    parser.add_class_arguments(PromptDataModule, "data")
    parser.add_argument(
        "--trainer",
        type=dict[str, Any],
        default={},
        help="As for fit; only `default_root_dir` and `accelerator` are read.",
    )
    kind = "steer_lightning.steering.SteeringVectors"
    parser.set_defaults({"model.steering": {"class_path": kind}})
    for target in ("model.seed", "data.seed"):
        parser.link_arguments("seed_everything", target)
    for name in ("ckpt_path", "weights_only"):  # a run's own config.yaml contains them
        parser.add_argument(f"--{name}", type=Any, default=None, help="Ignored.")


def run(words: Sequence[str]) -> None:
    """Runs `difference`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        rule = "this command runs in one process"
        raise ConfigError("WORLD_SIZE", os.environ["WORLD_SIZE"], rule=rule)
    options = read_options(
        words[1:],
        Settings,
        prog="steer-lightning difference",
        description="Makes vectors without training: the mean difference between a model's own "
        "right and wrong completions, or another contrast. Takes the configuration of fit.",
        also=_add_configuration,
    )
    settings = Settings(**{field.name: options[field.name] for field in fields(Settings)})
    trainer = options["trainer"]
    folder = settings.output or Path(trainer.get("default_root_dir") or RUNS) / DIFFERENCE
    module: SteeringModule = options["model"]
    job = Difference(
        policy=module.policy,
        engine=module.engine,
        sampling=module.sampling,
        reward=module.reward,
        eval_sampling=module.eval_sampling,
        verifier=module.verifier,
        data=options["data"],
        seed=module.seed,
        max_tokens=module.batch_gradient.max_tokens,
        settings=settings,
        folder=Path(folder),
        device=device_of(trainer),
    )
    _tell(job.run(), job.folder)


def _tell(facts: Mapping[str, Any], folder: Path) -> None:
    print(f"\n{one_line(facts['summary'])}\n")
    print(as_text(facts["scales"]))
    print(f"\n{facts['num_held_out']:d} training problems, with 95 % bootstrap intervals.")
    advice = _advice(facts["scales"], facts["scale"])
    print(f"best scale: {facts['scale']:g}{one_line(advice)}")
    print(f"vectors:    {one_line(folder / FILES[0])}")
    print(f"numbers:    {one_line(folder / FILES[1])}")


def _advice(rows: Sequence[Mapping[str, Any]], best: float) -> str:
    """Says what the best scale means where it is the base, or the last one that was tried."""
    scales = [row["scale"] for row in rows]
    if best != 0:
        at_the_end = best in (scales[0], scales[-1])
        return " (the last one tried; try more with --scales)" if at_the_end else ""
    tried = sorted((row for row in rows if row["scale"]), key=lambda row: abs(row["scale"]))
    smallest = tried[0] if tried else {}
    if (smallest.get("difference_high") or 0) < 0:
        return (
            f" (the base model; the vectors are 0. Even scale {smallest['scale']:g} is worse than "
            "the base: try smaller ones with --scales)"
        )
    return " (the base model; the vectors are 0)"
