"""`difference`: vectors without training, from the model's own right and wrong completions."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from tqdm import tqdm

from steer_lightning.cli.options import read_options
from steer_lightning.data import PromptDataModule, Shuffled, make_prompts
from steer_lightning.data.templates import check_template
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import Estimate
from steer_lightning.module import SteeringModule
from steer_lightning.steering import SteeringVectors
from steer_lightning.system.printable import aligned, one_line, printable
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.training.best_scale import Trial, best_of, find_scale
from steer_lightning.training.mean_difference import MeanDifference, in_units
from steer_lightning.training.sample import sample_round
from steer_lightning.types import Prompt

FILES = (SteeringVectors.file_name, "difference.json")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command takes beside a configuration of `fit`.

    Attributes:
        num_prompts: Training prompts whose completions the difference is of.
        num_tokens: First tokens of each completion that are read; null reads all.
        num_held_out: Further training prompts, on which the scale is found.
        scales: Sizes to try, 1 being as long as a typical state in the mean over layers; 0, the
            base, is always tried.
        output: Folder of the results; null takes `difference` in `trainer.default_root_dir`.
        overwrite: Replaces what an earlier command has left there.
    """

    num_prompts: int = 512
    num_tokens: int | None = None
    num_held_out: int = 256
    scales: list[float] | None = None
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises a ConfigError for a number out of range."""
        for key in ("num_prompts", "num_tokens", "num_held_out"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(key, value, rule="must be at least 1")
        if self.scales is not None and not all(map(math.isfinite, self.scales)):
            raise ConfigError("scales", self.scales, rule="must be finite")


SCALES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)


class Difference:
    """Vectors from the difference of means, and their scale.

    Args:
        module: Of the configuration; model, sampling, engine, rewards, verifier and
            `eval_sampling` are read.
        data: Of the same; the training problems are read.
        settings: Of the command.
        folder: For the results.
        device: On which the model runs.

    Raises:
        ConfigError: If something contradicts, or would be overwritten; before the model is loaded.
    """

    def __init__(
        self,
        module: SteeringModule,
        data: PromptDataModule,
        settings: Settings,
        folder: Path,
        device: str,
    ) -> None:
        self.module, self.data, self.settings = module, data, settings
        self.folder, self.device = folder, device
        self.scales = list(SCALES if settings.scales is None else settings.scales)
        self._check_steering()
        if module.sampling.group_size < 2:
            raise ConfigError(
                "model.sampling.group_size",
                module.sampling.group_size,
                rule="must be at least 2",
                why="Completions are compared with others of the same prompt",
                fix="Set model.sampling.group_size: 8 or more",
            )
        there = [name for name in FILES if (folder / name).exists()]
        if there and not settings.overwrite:
            fix = "Name another folder, or give --overwrite"
            raise ConfigError("output", str(folder), rule=f"already holds {there[0]}", fix=fix)

    def _check_steering(self) -> None:
        steering = self.module.policy.steering
        if not isinstance(steering, SteeringVectors):
            raise ConfigError(
                "model.steering",
                type(steering).__name__,
                rule="must be SteeringVectors",
                why="A difference of means is one vector a layer, without constraints",
                fix="Take SteeringVectors here; other vectors may start from the file by "
                "model.steering.init_from",
            )
        if steering.init_from is not None:
            raise ConfigError(
                "model.steering.init_from",
                steering.init_from,
                rule="must be null",
                why="The completions are those of the base",
            )

    def run(self) -> dict[str, Any]:
        """Samples, reads, finds the scale and writes.

        Returns:
            What `difference.json` holds.

        Raises:
            ConfigError: If settings or data do not fit, before the model is loaded; or if no prompt
                has both better and worse completions.
        """
        module, policy = self.module, self.module.policy
        prompts, held_out = self._prompts()
        policy.prepare()
        try:
            module.reward_pool.start()
            policy.load()
            policy.to(self.device)
            module.engine.setup(policy)
            found = self._difference(prompts)
            units = self._units(prompts)
            direction = in_units(found.vectors.to(units), units)
            trials = find_scale(
                policy,
                module.engine,
                direction,
                held_out,
                scales=self.scales,
                sampling=module.eval_sampling,
                verifier=module.verifier,
                seed=module.seed,
                batch_size=self.data.eval_batch_size,
                progress=True,
            )
        finally:
            module.reward.close()
            module.verifier.close()
        return self._write(found, units, trials)

    def _prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Those of the difference, and those of the scale, drawn from (seed) alone."""
        module, tokenizer = self.module, self.module.policy.tokenizer
        check_template(self.data.template, tokenizer)
        source = self.data.sources["train"]
        assert source is not None  # as PromptDataModule requires
        every = make_prompts(source, self.data.template, tokenizer, self.data.max_prompt_tokens)
        num, held_out = self.settings.num_prompts, self.settings.num_held_out
        if num + held_out > len(every):
            raise ConfigError(
                "num_prompts",
                num,
                rule=f"with num_held_out = {held_out} more than the {len(every)} prompts of "
                "data.train",
                why="The scale is found on prompts of which the difference is not",
                fix="Set one of them lower",
            )
        order = Shuffled()
        order.start(len(every), module.seed)
        drawn = [every[k] for k in order.take(num + held_out)]
        for key, sampling in (
            ("sampling", module.sampling),
            ("eval_sampling", module.eval_sampling),
        ):
            most = sampling.max_new_tokens
            module.policy.check_length(drawn, most, f"model.{key}.max_new_tokens")
        return drawn[:num], drawn[num:]

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        for start in range(0, len(prompts), self.data.batch_size):
            yield prompts[start : start + self.data.batch_size]

    def _difference(self, prompts: Sequence[Prompt]) -> MeanDifference:
        module, found = self.module, MeanDifference(self.settings.num_tokens)
        with tqdm(total=len(prompts), unit="prompt", desc="sampling and reading") as bar:
            for batch in self._batches(prompts):
                sampled = sample_round(
                    batch,
                    policy=module.policy,
                    engine=module.engine,
                    reward=module.reward,
                    sampling=module.sampling,
                    seed=module.seed,
                    step=0,
                )
                most = module.batch_gradient.max_tokens
                found.read(module.policy, sampled.rollouts, sampled.rewards, most)
                bar.update(len(batch))
                bar.set_postfix_str(f"mean reward {found.mean_reward:.2f}")
        return found

    def _units(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """As training measures them: on a batch of prompts."""
        steering = self.module.policy.steering
        assert isinstance(steering, SteeringVectors)
        ids = [prompt.token_ids for prompt in next(self._batches(prompts))]
        return self.module.policy.stream_rms(ids, steering.layers, steering.site)

    def _write(
        self, found: MeanDifference, units: torch.Tensor, trials: Sequence[Trial]
    ) -> dict[str, Any]:
        """The vectors of the best scale, and all numbers."""
        module, policy = self.module, self.module.policy
        steering, best = policy.steering, best_of(trials)
        assert isinstance(steering, SteeringVectors)
        numbers = zip(
            steering.layers,
            units.tolist(),
            found.vectors.norm(dim=1).tolist(),
            steering.vectors.detach().norm(dim=1).tolist(),
            strict=True,
        )
        names = ("layer", "stream_rms", "norm_of_difference", "norm")
        facts = {
            "base_model": policy.base,
            "base_revision": policy.commit,
            "seed": module.seed,
            "site": steering.site,
            "tokens": steering.tokens,
            "sampling": asdict(module.sampling),
            "eval_sampling": asdict(module.eval_sampling),
            **{key: value for key, value in vars(found).items() if key[0] != "_"},
            "mean_reward": found.mean_reward,
            "num_held_out": self.settings.num_held_out,
            "scales": [_as_row(trial) for trial in trials],
            "scale": best.scale,
            "layers": [dict(zip(names, row, strict=True)) for row in numbers],
        }
        vectors, table = (self.folder / name for name in FILES)
        steering.save(vectors, base_model=policy.base, revision=policy.commit)
        write_bytes(table, (json.dumps(facts, indent=2) + "\n").encode())
        return facts


def _as_row(trial: Trial) -> dict[str, Any]:
    return {
        "scale": trial.scale,
        **_flat("accuracy", trial.accuracy),
        **_flat("difference", trial.against_base),
        "completion_length": trial.completion_length,
        "cut_off_share": trial.cut_off_share,
        "num_unscored": trial.num_unscored,
    }


def _flat(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the scales, in percent."""

    def shown(row: Mapping[str, Any], name: str, form: str) -> str:
        numbers = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
        value, *ends = [None if x is None else format(100 * x, form) for x in numbers]
        return f"{value}" if None in ends else f"{value} [{', '.join(map(str, ends))}]"

    lines = [["scale", "accuracy", "against base", "length", "cut off"]]
    for row in rows:
        base = row["scale"] == 0
        lines.append(
            [
                f"{row['scale']:g}",
                shown(row, "accuracy", ".1f"),
                "" if base else shown(row, "difference", "+.1f"),
                f"{row['completion_length']:.1f}",
                f"{100 * row['cut_off_share']:.1f}",
            ]
        )
    return aligned(lines)


def device_of(trainer: Mapping[str, Any]) -> str:
    """The device that `trainer.accelerator` means, for one process.

    Raises:
        ConfigError: If it names none that is there.
    """
    accelerator = trainer.get("accelerator", "auto")
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if there["cuda"] else "cpu"
    device = "cuda" if accelerator == "gpu" else str(accelerator)
    if not there.get(device):
        known = ", ".join(name for name in there if there[name])
        rule = f"must be auto, or one of those of this machine: {known}"
        raise ConfigError("trainer.accelerator", accelerator, rule=rule)
    return device


def _add_configuration(parser: ArgumentParser) -> None:
    """The options of `fit`; of the trainer's two are read."""
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything random.")
    parser.add_class_arguments(SteeringModule, "model")
    parser.add_class_arguments(PromptDataModule, "data")
    parser.add_argument(
        "--trainer",
        type=dict[str, Any],
        default={},
        help="As for fit; `default_root_dir` and `accelerator` are read.",
    )
    kind = "steer_lightning.steering.SteeringVectors"
    parser.set_defaults({"model.steering": {"class_path": kind}})
    for target in ("model.seed", "data.seed"):
        parser.link_arguments("seed_everything", target)
    for name in ("ckpt_path", "weights_only"):  # a run's own config.yaml names them
        parser.add_argument(f"--{name}", type=Any, default=None, help="Not read.")


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
        description="Vectors without training: the difference of means between a model's own "
        "right and wrong completions. Takes the configuration of fit.",
        also=_add_configuration,
    )
    settings = Settings(**{field.name: options[field.name] for field in fields(Settings)})
    trainer = options["trainer"]
    folder = settings.output or Path(trainer.get("default_root_dir") or "runs") / "difference"
    job = Difference(options["model"], options["data"], settings, Path(folder), device_of(trainer))
    _tell(job.run(), job.folder)


def _tell(facts: Mapping[str, Any], folder: Path) -> None:
    print(
        f"\n{facts['num_contrasts']:d} of {facts['num_prompts']:d} prompts have better and worse "
        f"completions; mean reward {facts['mean_reward']:.3f}, {facts['num_unscored']:d} of "
        f"{facts['num_completions']:d} completions unscored\n"
    )
    print(printable(as_text(facts["scales"])))
    print(f"\n{facts['num_held_out']:d} training problems, with 95 % intervals by the bootstrap.")
    scales = [row["scale"] for row in facts["scales"]]
    best = facts["scale"]
    print(f"best scale: {best:g}", end="")
    if best == 0:
        print(", the base: the vectors are 0")
    else:
        at_the_end = best in (scales[0], scales[-1])
        print(", the last one tried: try further ones by --scales" if at_the_end else "")
    print(f"vectors:    {one_line(folder / FILES[0])}")
    print(f"numbers:    {one_line(folder / FILES[1])}")
