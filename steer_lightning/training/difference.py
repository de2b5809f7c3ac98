"""The job of the command `difference`: vectors from a difference of means, and their scale."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from steer_lightning.data import PromptDataModule, Shuffled, make_prompts
from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.data.templates import check_template
from steer_lightning.errors import ConfigError
from steer_lightning.evaluation import Estimate
from steer_lightning.evaluation.arms import check_quantization
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import RewardSum
from steer_lightning.rollout import RolloutEngine, Sampling
from steer_lightning.steering import SteeringVectors
from steer_lightning.system.printable import aligned, one_line
from steer_lightning.system.run_files import DIFFERENCE_NUMBERS
from steer_lightning.system.whole_files import write_bytes
from steer_lightning.training.best_scale import Trial, best_of, find_scale
from steer_lightning.training.contrast import Contrast, Reading
from steer_lightning.training.mean_difference import RewardContrast, in_units
from steer_lightning.training.sample import Sampler
from steer_lightning.types import Prompt

FILES = (SteeringVectors.file_name, DIFFERENCE_NUMBERS)
"""Names of the files in the folder at the end."""

SCALES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
"""Default scales."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the command, in addition to a configuration of `fit`.

    Attributes:
        num_prompts: Number of training prompts whose completions are compared.
        contrast: What the vectors are the difference of; null takes the states of better and of
            worse completions.
        num_tokens: Number of tokens to read from the start of each completion; null reads all.
        num_held_out: Number of further training prompts, used to find the scale.
        scales: Sizes of the vectors to try; at size 1 vectors are as long as a typical state, in
            the mean over layers. Size 0, the base, is always tried.
        output: Folder for the results; null uses `difference` in `trainer.default_root_dir`.
        overwrite: Whether to replace existing results in that folder.
    """

    contrast: Contrast | None = None
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
        if self.contrast is not None and self.num_tokens is not None:
            raise ConfigError(
                "num_tokens",
                self.num_tokens,
                rule=f"contradicts contrast, {type(self.contrast).__name__}",
                why="It is about the default contrast, of better and worse completions; others "
                "choose the tokens that they read themselves",
                fix="Leave one of them out",
            )
        if self.scales is not None and not all(map(math.isfinite, self.scales)):
            raise ConfigError("scales", self.scales, rule="must be finite")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Computes vectors from a difference of means, and finds their scale.

    Attributes:
        policy: Policy that is not loaded yet, with `SteeringVectors` that hold the result.
        engine: Engine that answers prompts.
        sampling: Settings for sampling the completions to compare.
        reward: Reward of these completions.
        eval_sampling: Settings for sampling answers at each scale.
        verifier: Reward that decides which of these answers are right.
        data: Data module with the training problems, the template and the batch sizes.
        seed: Seed for drawing prompts and sampling their completions.
        max_tokens: Maximum number of tokens in a forward pass over completions, padding included.
        settings: Settings of the command.
        folder: Folder of the results.
        device: Device on which the model runs.

    Raises:
        ConfigError: If settings contradict each other, or results would be overwritten. This is
            checked before the model is loaded.
    """

    policy: Policy
    engine: RolloutEngine
    sampling: Sampling
    reward: RewardSum
    eval_sampling: Sampling
    verifier: RewardSum
    data: PromptDataModule
    seed: int
    max_tokens: int
    settings: Settings
    folder: Path
    device: str

    def __post_init__(self) -> None:
        """Raises a ConfigError if settings contradict, or results would be overwritten."""
        self._check_steering()
        check_quantization(self.policy, [self.policy.steering], self.engine)
        if self.settings.contrast is None and self.sampling.group_size < 2:
            raise ConfigError(
                "model.sampling.group_size",
                self.sampling.group_size,
                rule="must be at least 2",
                why="Completions are compared with other completions of the same prompt",
                fix="Set model.sampling.group_size: 8 or more",
            )
        there = [name for name in FILES if (self.folder / name).exists()]
        if there and not self.settings.overwrite:
            fix = "Choose another folder, or pass --overwrite"
            raise ConfigError(
                "output", str(self.folder), rule=f"already contains {there[0]}", fix=fix
            )

    def _check_steering(self) -> None:
        steering = self.policy.steering
        if not isinstance(steering, SteeringVectors):
            raise ConfigError(
                "model.steering",
                type(steering).__name__,
                rule="must be SteeringVectors",
                why="A difference of means is one vector per layer, without constraints",
                fix="Use SteeringVectors here; other kinds can start from the resulting file "
                "with model.steering.init_from",
            )
        if steering.init_from is not None:
            raise ConfigError(
                "model.steering.init_from",
                steering.init_from,
                rule="must be null",
                why="The completions must be those of the base",
            )

    def run(self) -> dict[str, Any]:
        """Samples and reads completions, finds the scale, and writes the results.

        Returns:
            Content of `difference.json`.

        Raises:
            ConfigError: If settings or data do not fit, before the model is loaded; or if no prompt
                has both better and worse completions.
        """
        prompts, held_out = self._prompts()
        self.policy.prepare()
        try:
            self._load()
            contrast = self._read(prompts)
            vectors, units = contrast.direction(), self._units(prompts)
            trials = find_scale(
                self.policy,
                self.engine,
                in_units(vectors.to(units), units),
                held_out,
                scales=list(SCALES if self.settings.scales is None else self.settings.scales),
                sampling=self.eval_sampling,
                verifier=self.verifier,
                seed=self.seed,
                batch_size=self.data.eval_batch_size,
                progress=True,
            )
        finally:
            self.reward.close()
            self.verifier.close()
        return self._write(contrast, vectors, units, trials)

    def _load(self) -> None:
        if self.reward.pool is not None:
            self.reward.pool.start()  # its processes load the rewards in the meantime
        self.policy.load()
        self.policy.to(self.device)
        self.engine.setup(self.policy)
        samplings = {"model.sampling": self.sampling, "model.eval_sampling": self.eval_sampling}
        tell_of_endings(self.policy.tokenizer, self.policy.eos_token_ids, samplings)

    def _prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        """Draws prompts for the difference, and others for the scale, from the seed only."""
        data, tokenizer = self.data, self.policy.tokenizer
        check_template(data.template, tokenizer)
        source = data.sources["train"]
        assert source is not None  # as PromptDataModule requires
        most = data.max_prompt_tokens
        every = make_prompts(source, data.template, tokenizer, most, "data.train")
        num, held_out = self.settings.num_prompts, self.settings.num_held_out
        if num + held_out > len(every):
            raise ConfigError(
                "num_prompts",
                num,
                rule=f"together with num_held_out = {held_out} is more than the {len(every)} "
                "prompts of data.train",
                why="The scale is found on prompts that are not used for the difference",
                fix="Lower one of them",
            )
        order = Shuffled()
        order.start(len(every), self.seed)
        drawn = [every[k] for k in order.take(num + held_out)]
        for key, sampling in (("sampling", self.sampling), ("eval_sampling", self.eval_sampling)):
            most = sampling.max_new_tokens
            self.policy.check_prompts(drawn, most, f"model.{key}.max_new_tokens")
        if self.settings.contrast is not None:
            self.settings.contrast.check(self.policy, drawn[:num])
        return drawn[:num], drawn[num:]

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        for start in range(0, len(prompts), self.data.batch_size):
            yield prompts[start : start + self.data.batch_size]

    def _read(self, prompts: Sequence[Prompt]) -> Contrast:
        found: Contrast = self.settings.contrast or RewardContrast(self.settings.num_tokens)
        sampler = Sampler(self.policy, self.engine, self.reward, self.sampling, seed=self.seed)
        reading = Reading(policy=self.policy, sampler=sampler, max_tokens=self.max_tokens)
        with tqdm(total=len(prompts), unit="prompt", desc="reading") as bar:
            for batch in self._batches(prompts):
                found.read(batch, reading)
                bar.update(len(batch))
                bar.set_postfix_str(one_line(found.summary()))
        return found

    @property
    def _vectors(self) -> SteeringVectors:
        assert isinstance(self.policy.steering, SteeringVectors)
        return self.policy.steering

    def _units(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Measures the size of the stream, (L,), on a batch of prompts, as training does."""
        ids = [prompt.token_ids for prompt in next(self._batches(prompts))]
        return self.policy.stream_rms(ids, self._vectors.layers, self._vectors.site)

    def _write(
        self,
        contrast: Contrast,
        vectors: torch.Tensor,
        units: torch.Tensor,
        trials: Sequence[Trial],
    ) -> dict[str, Any]:
        """Writes the vectors at the best scale, and all numbers."""
        policy, steering = self.policy, self._vectors
        numbers = zip(
            steering.layers,
            units.tolist(),
            vectors.norm(dim=1).tolist(),
            steering.vectors.detach().norm(dim=1).tolist(),
            strict=True,
        )
        names = ("layer", "stream_rms", "norm_of_difference", "norm")
        facts = {
            "base_model": policy.base,
            "base_revision": policy.commit,
            "seed": self.seed,
            "site": steering.site,
            "tokens": steering.tokens,
            "sampling": asdict(self.sampling),
            "eval_sampling": asdict(self.eval_sampling),
            "contrast": type(contrast).__name__,
            "summary": contrast.summary(),
            **contrast.facts(),
            "num_held_out": self.settings.num_held_out,
            "scales": [_as_row(trial) for trial in trials],
            "scale": best_of(trials).scale,
            "layers": [dict(zip(names, row, strict=True)) for row in numbers],
        }
        file, table = (self.folder / name for name in FILES)
        steering.save(file, base_model=policy.base, revision=policy.commit)
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
    """Returns the table of the scales as text, in percent.

    Args:
        rows: Entry `scales` of `difference.json`.
    """

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
