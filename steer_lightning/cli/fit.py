"""The commands `fit`, `validate` and `test`: LightningCLI with a folder for each run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, Namespace, dict_to_namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from steer_lightning.callbacks import (
    GracefulStop,
    Guard,
    LastCheckpoint,
    LensCallback,
    RewardLogger,
    RolloutTable,
    RunSummary,
    SignalWatch,
    SteeringProgressBar,
    VectorCheckpoint,
)
from steer_lightning.callbacks.last_checkpoint import WholeFileCheckpointIO
from steer_lightning.cli.full_keys import with_whole_key
from steer_lightning.cli.messages import explain, explain_refusal
from steer_lightning.cli.resumable_runs import (
    RunInProgress,
    checkpoint_to_fit,
    checkpoint_to_measure,
    is_first_process,
)
from steer_lightning.cli.run_log import RunLog
from steer_lightning.cli.short_names import short_names
from steer_lightning.data import PromptDataModule
from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.module import SteeringModule
from steer_lightning.optim import default_settings
from steer_lightning.results.report import draw_reward_curve, drawn, write_report
from steer_lightning.strategy import STRATEGIES, SteeringStrategy, wants_several
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import METRICS, RUNS
from steer_lightning.system.seeds import check_seed
from steer_lightning.system.showing import told_not_raised
from steer_lightning.system.yaml_size import bound_yaml
from steer_lightning.training.stopping import NamingTrainer
from steer_lightning.training.trainer_options import (
    check_accelerator,
    check_barebones,
    check_trainer,
)
from steer_lightning.training.validations import needs_problems

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": RUNS,
    "devices": 1,
    "log_every_n_steps": 1,
    "enable_model_summary": False,  # the summary would count the frozen base
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # our loader can resume, Lightning's replacement can't
}


OPTIMIZER = "model.optimizer"

HARMLESS = (
    # a run resumes from the state after the optimizer's step
    "Using ModelCheckpoint with manual optimization",
    "You have overridden `transfer_batch_to_device`",  # prompts are text, for every kind of loader
    r"Found \d+ module.s. in eval mode",  # the frozen base always is
    r"`isinstance\(treespec",  # a matter between Lightning and torch
    r"The .*dataloader.* does not have many workers",  # prompts are in memory
    r"It is recommended to use `self.log\(",  # metrics are already joined over the processes
    "Be aware that when using `ckpt_path`, callbacks",  # `test` lacks those that watch a run
)
"""Beginnings of Lightning's messages whose advice does not apply here."""


class SteeringParser(LightningArgumentParser):
    """A parser that writes out the default optimizer when it writes a configuration."""

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Writes a configuration as YAML, for `--print_config` and for a run's folder."""
        # if the default stayed a function, a reader would not learn the learning rate; if the
        # settings were the parser's default, they would be mixed with those of another optimizer
        given = namespace.get(OPTIMIZER)  # parsers of single classes have none
        if given is not None and given == self.get_defaults().get(OPTIMIZER):
            namespace = namespace.clone()
            namespace[OPTIMIZER] = dict_to_namespace(default_settings())
        text: str = super().dump(namespace, *args, **kwargs)
        return text


class SteeringCLI(LightningCLI):
    """LightningCLI with the callbacks that every run has; building the object runs the command.

    Args:
        run: Object that makes and keeps the run's folder; the caller closes it.

    Raises:
        ConfigError: For any mistake in the configuration.
    """

    module_class = SteeringModule

    def __init__(self, run: RunInProgress) -> None:
        self.run = run
        self.options: list[str] = []
        strict = {"exit_on_error": False, "allow_abbrev": False}
        try:
            super().__init__(
                self.module_class,
                PromptDataModule,
                trainer_class=NamingTrainer,
                trainer_defaults=TRAINER_DEFAULTS,
                save_config_callback=None,
                auto_configure_optimizers=False,
                parser_class=SteeringParser,
                parser_kwargs={
                    "prog": "steer-lightning",
                    **strict,
                    **dict.fromkeys(self.subcommands(), strict),
                },
            )
        except ArgumentError as error:
            raise explain(str(error), self.options, sys.argv[1:]) from error
        except ConfigError as error:
            config = vars(self).get("config", {})  # it is missing until the words are read
            settings = config.get(config.get("subcommand"), {})
            raise with_whole_key(error, settings) from error.__cause__

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns Lightning's commands without `predict`, which has no meaning here."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the option for the one seed of all random numbers."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of all randomness, 0 or more."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Passes the seed on to model and data, and sets the default steering."""
        parser.set_defaults(
            {"model.steering": {"class_path": "steer_lightning.steering.SteeringVectors"}}
        )
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")
        names = (name for action in parser._actions for name in action.option_strings)
        names = (name for name in names if name.startswith("--") and not name.endswith(".help"))
        self.options = sorted(name.lstrip("-") for name in names)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the words, and checks the seed before it is used."""
        super().parse_arguments(parser, args)
        check_seed("seed_everything", self.config[self.config.subcommand].seed_everything, 32)

    def before_instantiate_classes(self) -> None:
        """Finds the checkpoint to resume from, and makes the run's folder."""
        config = self.config[self.config.subcommand]
        if not isinstance(config.trainer, Namespace):  # jsonargparse accepts this
            raise ConfigError("trainer", config.trainer, rule="must be a mapping of its options")
        if config.trainer.default_root_dir is None:
            raise ConfigError("trainer.default_root_dir", None, rule="must be a folder")
        check_accelerator(config.trainer.accelerator)
        root = Path(config.trainer.default_root_dir)
        if self.config.subcommand == "fit":
            _bound_the_run(config.trainer)
            _validate_if_asked(config)
        if not is_first_process():  # the first process informs the others, see `_connect`
            return
        self._begin(config, root)

    def _begin(self, config: Any, root: Path) -> None:
        """Finds the checkpoint to resume from, and makes the folder of a run of `fit`."""
        config.ckpt_path = self._checkpoint(config, root)
        if self.config.subcommand == "fit":
            self.run.begin(root, self._text(config), config.ckpt_path)

    def _text(self, config: Any) -> str:
        """Returns the resolved configuration as YAML."""
        text: str = self._parser(self.config.subcommand).dump(config, skip_none=False)
        return text

    def _checkpoint(self, config: Any, root: Path) -> str | None:
        """Finds the checkpoint to resume from, and reports one that the user did not name."""
        asked = config.get("ckpt_path")
        if self.config.subcommand != "fit":
            found = checkpoint_to_measure(asked, root)
        else:
            found = checkpoint_to_fit(asked, root, self._text(config))
        if found is not None and asked is None:
            anew = "(--ckpt_path=new starts a new run)"
            print(f"resuming from {one_line(found)}: same settings, interrupted {anew}")
        return None if found is None else str(found)

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would look for hyper-parameters, which our checkpoints lack."""

    def instantiate_classes(self) -> None:
        """Makes the objects, and turns a plug-in's refusal into one message."""
        try:
            super().instantiate_classes()
        except ConfigError:
            raise
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise explain_refusal(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Adds the run's folder, its CSV log, and the callbacks that the configuration lacks."""
        config = self._get(self.config_init, "trainer")
        assert config is not None
        name, several = config["strategy"], wants_several(config["devices"], config["num_nodes"])
        if name in STRATEGIES and (several or name != "auto"):
            config["strategy"] = STRATEGIES[name]()
        kwargs["plugins"] = _with_whole_files(config.get("plugins"))
        if self.config.subcommand != "fit":
            return self._make_trainer(logger=False, **kwargs)
        loggers = config.get("logger")
        loggers = loggers if isinstance(loggers, list) else [loggers]
        given = config.get("callbacks") or []
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        every = [*given, *self._missing(given, config)]
        stops = [callback for callback in every if isinstance(callback, GracefulStop)]
        # the watch comes first, to receive signals; the stop comes last, since it may end the run
        config["callbacks"] = [
            *(SignalWatch(stop) for stop in stops),
            *(callback for callback in every if callback not in stops),
            *stops,
        ]
        loggers = [x for x in loggers if x not in (None, True, False)]
        if self.run.folder is not None:
            kwargs["default_root_dir"] = str(self.run.folder)
            loggers.insert(0, RunLog(self.run.folder))
        return self._make_trainer(logger=loggers, **kwargs)

    def _make_trainer(self, **kwargs: Any) -> L.Trainer:
        try:
            check_barebones(self._get(self.config_init, "trainer")["barebones"])
            trainer = super().instantiate_trainer(**kwargs)
            check_trainer(trainer)  # before the trainer starts further processes
            return trainer
        # Lightning raises these for wrong settings; RuntimeError is for two equal callbacks
        except (
            MisconfigurationException,
            RuntimeError,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                "trainer", UNKNOWN, rule=" ".join(str(error).split()).rstrip(".")
            ) from error

    def _missing(self, given: list[Callback], config: Any) -> list[Callback]:
        defaults: list[tuple[type[Callback], Any]] = [
            (RewardLogger, RewardLogger),
            (Guard, Guard),
            (RolloutTable, RolloutTable),
            (VectorCheckpoint, VectorCheckpoint),
            (LensCallback, LensCallback),
            (LastCheckpoint, LastCheckpoint),
            # after a failure, the bar's line ends before the summary reports the failure
            (ProgressBar, SteeringProgressBar),
            (RunSummary, RunSummary),
            (GracefulStop, GracefulStop),
        ]
        if config.get("enable_progress_bar") is False:
            defaults = [pair for pair in defaults if pair[0] is not ProgressBar]
        if config.get("enable_checkpointing") is False:
            defaults = [pair for pair in defaults if pair[0] is not LastCheckpoint]
        return [
            make()
            for kind, make in defaults
            if not any(isinstance(callback, kind) for callback in given)
        ]

    def _connect(self) -> None:
        """Lets the first of several processes send the folder and the checkpoint to the others."""
        strategy, config = self.trainer.strategy, self.config_init[self.config.subcommand]
        if not isinstance(strategy, SteeringStrategy):
            return
        # checked before other processes exist
        self.model.policy.check_sharding(strategy.shards)
        if is_first_process():
            folder = self.trainer.default_root_dir
            strategy.tell({"folder": folder, "ckpt_path": config.get("ckpt_path")})
        else:
            strategy.setup_environment()
            vars(self.trainer)["_default_root_dir"] = strategy.agreed["folder"]  # it has no setter
            config["ckpt_path"] = strategy.agreed["ckpt_path"]

    before_fit = before_validate = before_test = _connect

    def after_fit(self) -> None:
        """Draws the reward curve and writes the run's report."""
        folder = self.run.folder
        if folder is None:  # not the first process
            return
        if not (folder / METRICS).exists():  # fast_dev_run, max_steps of 0
            return
        print(f"curve:       {one_line(drawn(draw_reward_curve, folder))}")
        with told_not_raised("the report"):  # the trained vectors matter more than the report
            print(f"report:      {one_line(write_report(folder, overwrite=True))}")


def _with_whole_files(plugins: Any) -> list[Any]:
    """Adds the writer of whole checkpoints, unless the user has named another one."""
    given = plugins if isinstance(plugins, list) else [plugins] if plugins is not None else []
    own = any(isinstance(plugin, CheckpointIO) for plugin in given)
    return given if own else [*given, WholeFileCheckpointIO()]


def _validate_if_asked(config: Any) -> None:
    """Answers problems of `data.val` during the run only if an option says when.

    `BenchmarkEval` may use these problems, too, and nobody has chosen the end of an epoch as the
    time to answer them.
    """
    trainer = config.trainer
    asked = {key: trainer[key] for key in ("val_check_interval", "limit_val_batches")}
    asked = {key: value for key, value in asked.items() if value is not None}
    if trainer.check_val_every_n_epoch != 1:
        asked["check_val_every_n_epoch"] = trainer.check_val_every_n_epoch
    if not asked:
        trainer.limit_val_batches = 0
    elif config.data.val is None and trainer.limit_val_batches != 0:
        raise needs_problems(*next(iter(asked.items())))


def _bound_the_run(trainer: Any) -> None:
    """Sets one epoch where nothing bounds the run; `max_steps` may take any number of epochs."""
    if trainer.max_epochs is None:
        trainer.max_epochs = 1 if trainer.max_steps == -1 else -1


@contextmanager
def few_messages() -> Iterator[None]:
    """Withholds messages that call for no action, while the block runs."""
    # Lightning's messages about seeds and accelerators, and its tips
    levels = dict.fromkeys(("lightning.pytorch", "lightning.fabric"), logging.WARNING)
    if not is_first_process():  # all processes would print the same messages
        levels["steer_lightning"] = logging.ERROR
    before = {name: logging.getLogger(name).level for name in levels}
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def run(words: Sequence[str]) -> None:
    """Runs `fit`, `validate` or `test`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the configuration.
        KeyboardInterrupt: After Ctrl-C, once the run is saved.
    """
    bound_yaml()
    # LightningCLI reads the words from there, and starts further processes with them
    before, sys.argv = sys.argv, [sys.argv[0], *words]
    try:
        with short_names(), few_messages(), closing(RunInProgress()) as run_in_progress:
            SteeringCLI(run_in_progress)
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):  # then Lightning exits with 1
            raise KeyboardInterrupt from stopped
        raise
    finally:
        sys.argv = before
