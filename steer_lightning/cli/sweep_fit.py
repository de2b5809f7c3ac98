"""The command line of `fit` for one experiment of a sweep: prepared, and run later."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace, _typehints
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.progress.progress_bar import ProgressBar
from lightning.pytorch.strategies import Strategy

from steer_lightning.callbacks import GracefulStop
from steer_lightning.cli.fit import SteeringCLI
from steer_lightning.cli.resumable_runs import RunInProgress, ended_run
from steer_lightning.data.shared_prompts import SharedPrompts
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.steering.row_vectors import steers_rows
from steer_lightning.sweep.experiments import Experiment
from steer_lightning.sweep.lane_module import LaneModule
from steer_lightning.system.plain_settings import check_same, flat
from steer_lightning.training.resume import get_random_states

SHARED = (
    *("model.base", "model.revision", "model.dtype", "model.attn_implementation"),
    "model.quantization",
    *("model.trust_remote_code", "model.engine", "model.exact", "model.tokens_per_micro_batch"),
    *("model.activation_checkpointing", "model.kept_tokens", "model.reward_pool"),
    *("data.template", "data.max_prompt_tokens", "trainer"),
)
"""Settings that all experiments of a sweep must have in common."""

ABSENT = "no such setting"
"""What a message says instead of the value of a setting that one of two experiments lacks."""

PROMPTS = ("train", "val", "test", "template", "max_prompt_tokens")
"""Settings of `data` on which the prompts depend."""


class ExperimentCLI(SteeringCLI):
    """`fit` for one experiment: building the object checks everything and runs nothing.

    Args:
        run: Object that makes and keeps the run's folder; the caller closes it.
        experiment: The experiment.
        words: Words of the command line that follow `fit`.
        like: Another experiment of the sweep, whose parser is used again: it takes a third of the
            time to make a new one.

    Attributes:
        root: The folder of all experiments, `trainer.default_root_dir` of the configuration.
        ended: The experiment's folder if it has been trained before; None otherwise.
        random_states: Random states with which `fit` would start.

    Raises:
        ConfigError: For any mistake in the configuration.
    """

    module_class = LaneModule

    def __init__(
        self,
        run: RunInProgress,
        experiment: Experiment,
        words: list[str],
        like: ExperimentCLI | None = None,
    ) -> None:
        self.experiment = experiment
        self.root = Path()
        self.ended: Path | None = None
        self._like, self._texts = like, dict[tuple[str | None, str], str]()
        before, sys.argv = sys.argv, [sys.argv[0], "fit", *words, *as_words(experiment.settings)]
        try:
            super().__init__(run)
            self.random_states = get_random_states()  # before the next one seeds the generators
        except ConfigError as error:
            raise _of_experiment(error, experiment) from error.__cause__
        finally:
            sys.argv = before

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns `fit` alone: no other command of Lightning is run."""
        return {"fit": SteeringCLI.subcommands()["fit"]}

    def setup_parser(self, *args: Any) -> None:
        """Makes the parser, or takes that of another experiment; see `LightningCLI`."""
        if self._like is None:
            super().setup_parser(*args)
            return
        for name in ("parser", "_subcommand_parsers", "_subcommand_method_arguments", "options"):
            setattr(self, name, getattr(self._like, name))

    def _add_instantiators(self) -> None:
        """Does nothing: they would bind the parser to this experiment.

        They note hyper-parameters for `save_hyperparameters`, which neither class calls.
        """

    def before_instantiate_classes(self) -> None:
        """Gives the experiment a folder of its own, and looks whether it has been trained."""
        config = self.config[self.config.subcommand]
        self.root = Path(config.trainer.default_root_dir)
        config.trainer.default_root_dir = str(self.root / self.experiment.name)
        super().before_instantiate_classes()

    def _begin(self, config: Any, root: Path) -> None:
        self.ended = ended_run(root, self._text(config))
        if self.ended is None:
            super()._begin(config, root)

    def _text(self, config: Any) -> str:
        """Returns the resolved configuration as YAML, which is written out only once."""
        key = config.ckpt_path, config.trainer.default_root_dir  # set by this class's methods
        if key not in self._texts:
            self._texts[key] = super()._text(config)
        return self._texts[key]

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Leaves the progress bar to the sweep; see `SteeringCLI`."""
        return super().instantiate_trainer(enable_progress_bar=False, **kwargs)

    def _missing(self, given: list[Callback], config: Any) -> list[Callback]:
        found = super()._missing(given, config)
        return [callback for callback in found if not isinstance(callback, ProgressBar)]

    def _run_subcommand(self, subcommand: str) -> None:
        """Does nothing; see `carry_out`."""

    def before_fit(self) -> None:
        """Does nothing, since the processes of all experiments are connected before; see `plan`."""

    def plan(self) -> dict[str, Any]:
        """Returns what the first process has decided, for the others."""
        path = self.config_init["fit"].get("ckpt_path")
        return {
            "ended": self.ended,
            "folder": self.trainer.default_root_dir,
            "ckpt_path": path,
            # Lightning holds a lock while it loads a checkpoint, for which other experiments would
            # wait, while this one waits for other processes
            "checkpoint": path and Strategy.load_checkpoint(self.trainer.strategy, path),
        }

    def follow(self, plan: Mapping[str, Any]) -> None:
        """Takes over what the first process has decided; there, it changes nothing."""
        self.ended = plan["ended"]
        vars(self.trainer)["_default_root_dir"] = plan["folder"]  # it has no setter
        self.config_init["fit"]["ckpt_path"] = plan["ckpt_path"]
        self.trainer.strategy.checkpoint = plan["checkpoint"]  # type: ignore[attr-defined]
        # before each step Lightning would ask the first process, in a call that passes by the
        # sweep's order, whether a handler of signals has been called, which a sweep doesn't install
        self.trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def carry_out(self) -> None:
        """Trains the experiment from start to end."""
        super()._run_subcommand("fit")

    def stop(self, number: int) -> None:
        """Lets the experiment save and end after its current step.

        Args:
            number: Number of the signal that is the reason.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GracefulStop):
                callback.request(number)

    @property
    def wants_bar(self) -> bool:
        """Whether `trainer.enable_progress_bar` leaves the progress bar on."""
        return self.config[self.config.subcommand].trainer.enable_progress_bar is not False

    def resolved(self) -> str:
        """Returns all settings as text, whether given or by default."""
        config = self.config[self.config.subcommand].as_dict()
        config["trainer"].pop("default_root_dir")
        return json.dumps(config, sort_keys=True, default=str)

    def share_data(self, first: ExperimentCLI, prompts: SharedPrompts) -> None:
        """Takes over the tokenizer of another experiment, and prompts with the same settings."""
        data = self.config[self.config.subcommand].data.as_dict()
        settings: dict[str, Any] = {name: data[name] for name in PROMPTS}
        if not all(path.startswith("steer_lightning.") for path in class_paths(settings)):
            # a source of the user's own may draw problems by the seed
            settings["seed"] = self.config[self.config.subcommand].seed_everything
        key = json.dumps(settings, sort_keys=True, default=str)
        self.datamodule.share = partial(prompts.fill, key)
        if self is not first:
            self.model.policy.tokenizer = first.model.policy.tokenizer

    def shared(self) -> dict[str, Any]:
        """Returns the settings that all experiments must have in common, by whole key."""
        config = self.config[self.config.subcommand].as_dict()
        config["trainer"]["default_root_dir"] = str(self.root)
        found: dict[str, Any] = {}
        for key in SHARED:
            found |= flat(_at(config, key), key, lists=True)
        return found


@contextmanager
def remembered_protocols() -> Iterator[None]:
    """Lets jsonargparse compare each class with a protocol only once while the block runs.

    It (4.53) compares signatures for each value of each configuration, a sixth of the time.
    """
    compare = _typehints.implements_protocol
    remembered = cache(compare)

    def implements_protocol(value: Any, protocol: Any) -> bool:
        try:
            return bool(remembered(value, protocol))
        except TypeError:  # a value that is no class, and has no hash
            return bool(compare(value, protocol))

    _typehints.implements_protocol = implements_protocol
    try:
        yield
    finally:
        _typehints.implements_protocol = compare


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Writes settings as words of the command line.

    A key comes before those that lie below it, such as `model.steering` before
    `model.steering.init_args.layers`, which it would replace.
    """
    return [
        f"--{key}={value if isinstance(value, str) else _as_yaml(value)}"
        for key, value in sorted(settings.items(), key=lambda pair: pair[0].count("."))
    ]


def _as_yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {_as_yaml(v)}' for k, v in value.items())}}}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}".replace("inf", ".inf").replace("nan", ".nan")
    return json.dumps(value)


def check_alike(experiments: list[ExperimentCLI]) -> None:
    """Raises a ConfigError for the first setting that must be the same everywhere and is not."""
    first = experiments[0]
    _check_different(experiments)
    for experiment in experiments:
        _check_steering(experiment)
    _check_whole_base(first)
    shared = first.shared()
    for other in experiments[1:]:
        now = other.shared()
        try:
            check_same(
                {key: shared.get(key, ABSENT) for key in shared | now},
                {key: now.get(key, ABSENT) for key in shared | now},
                told=f"experiment {first.experiment.name} has",
                why="All experiments of a sweep share one base and one flight",
                fix="Set the same, or run several sweeps",
            )
        except ConfigError as error:
            raise error.at(f"experiment {other.experiment.name}: {error.key}") from None


def _of_experiment(error: ConfigError, experiment: Experiment) -> ConfigError:
    """Returns an error that also names the experiment."""
    key = f"experiment {experiment.name}: {error.key}"
    is_short = error.key in experiment.settings and "." not in error.key
    if is_short and error.rule == "there is no such option" and not error.fix:
        fix = "Write the whole key, such as model.optimizer.init_args.lr for a learning rate"
        return ConfigError(key, error.value, rule=error.rule, why=error.why, fix=fix)
    return error.at(key)


def _check_different(experiments: list[ExperimentCLI]) -> None:
    """Refuses experiments whose settings are the same once all defaults are filled in."""
    names: dict[str, str] = {}
    for experiment in experiments:
        settings, name = experiment.resolved(), experiment.experiment.name
        if settings in names:
            raise ConfigError(
                f"experiment {name}",
                UNKNOWN,
                rule=f"is the same as experiment {names[settings]}",
                why="All settings of the two have the same values once the configuration and the "
                "defaults are filled in",
                fix="Leave one of them out",
            )
        names[settings] = name


def _check_steering(experiment: ExperimentCLI) -> None:
    steering = experiment.model.policy.steering
    if not steers_rows(steering):
        raise ConfigError(
            f"experiment {experiment.experiment.name}: model.steering",
            type(steering).__name__,
            rule="can't be trained in a sweep, only vectors that are added to the stream can",
            why="A joint pass of all experiments can't do anything else for each one alone"
            if steering.beside_base
            else "It changes modules of the base, which all experiments share",
            fix="Train it with steer-lightning fit",
        )


def _check_whole_base(experiment: ExperimentCLI) -> None:
    strategy = experiment.trainer.strategy
    if getattr(strategy, "shards", False):
        raise ConfigError(
            "trainer.strategy",
            type(strategy).__name__,
            rule="can't be used in a sweep, which needs the whole base in each process",
            why="Passes over a sharded base are collective calls, and the processes of a sweep "
            "make joint passes of different sizes",
            fix="Set trainer.strategy: ddp, or train each experiment with steer-lightning fit",
        )


def class_paths(settings: Any) -> Iterator[str]:
    """Yields the classes that settings name, at any depth."""
    if isinstance(settings, Mapping):
        if "class_path" in settings:
            yield settings["class_path"]
        settings = settings.values()
    elif not isinstance(settings, (list, tuple)):
        return
    for value in settings:
        yield from class_paths(value)


def _at(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found[part]
    return found.as_dict() if isinstance(found, Namespace) else found
