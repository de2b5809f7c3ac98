"""The data module: prompts for training, validation and test, and the training order's position."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from steer_lightning.data.loader import PromptList, ResumableLoader
from steer_lightning.data.order import PromptOrder, Shuffled
from steer_lightning.data.prompts import SOURCE, load_problems, make_prompts, tell_of_overlap
from steer_lightning.data.shared_prompts import BySplit
from steer_lightning.data.templates import ChatTemplate, Template, check_template
from steer_lightning.errors import ConfigError
from steer_lightning.system.plain_settings import check_same, describe
from steer_lightning.system.printable import one_line
from steer_lightning.system.seeds import check_seed
from steer_lightning.types import Prompt, Source

log = logging.getLogger(__name__)


class PromptDataModule(L.LightningDataModule):
    """Loads the prompts for training, validation and test.

    Before the model loads, the module makes the prompts that are needed, and warns of held-out
    problems that are among the training problems.

    Args:
        train: Source of the training problems.
        val: Source of the problems for `validate`, for `fit` if `trainer.val_check_interval` is
            set, and for the callback `BenchmarkEval` if it names no benchmarks; null for none.
        test: Source of the problems for `test`.
        template: Template that turns a question into a prompt; by default, the model's chat
            template with a system message.
        order: Order in which training prompts are drawn; by default `Shuffled`, which draws each
            prompt once an epoch. `ByPassRate` is a curriculum.
        batch_size: Number of prompts in a training step, B.
        eval_batch_size: Number of prompts in an evaluation batch.
        max_prompt_tokens: Largest number of tokens in a prompt; longer prompts are dropped and
            counted.
        seed: Seed of the training order; on the command line it is `seed_everything`.

    Attributes:
        learns_from_rewards: Whether the order needs the rewards of each step, through `record`.
        share: Function that takes over the prompts of another module, or calls the function that
            makes them, see `SharedPrompts.fill`; None to make them.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        train: Source,
        val: Source | None = None,
        test: Source | None = None,
        template: Template | None = None,
        order: PromptOrder | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        max_prompt_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        super().__init__()
        numbers = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "max_prompt_tokens": max_prompt_tokens,
        }
        for key, value in numbers.items():
            if value < 1:
                raise ConfigError(f"data.{key}", value, rule="must be at least 1")
        check_seed("data.seed", seed, 32)
        self.sources = {"train": train, "val": val, "test": test}
        self.template: Template = template or ChatTemplate()
        self.order: PromptOrder = order or Shuffled()
        self.learns_from_rewards = bool(getattr(self.order, "learns_from_rewards", True))
        self._order_settings = describe(self.order)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.max_prompt_tokens, self.seed = max_prompt_tokens, seed
        self.prompts: BySplit = {}
        self.share: Callable[[BySplit, Callable[[], None]], None] | None = None
        self._loader: ResumableLoader | None = None
        self._cursor: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Loads the prompts that the stage needs, before the model's weights are loaded."""
        check_template(self.template, self._tokenizer())
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]
        assert self.trainer is not None
        if stage == "fit" and not self.trainer.limit_val_batches:
            needed = ("train",)

        def load() -> None:
            for split in needed:
                source = self.sources[split]
                if source is not None and split not in self.prompts:
                    self.prompts[split] = self.make_prompts(source, f"data.{split}")
            if stage == "fit":
                self._compare_splits()

        if self.share is None:
            load()
        else:
            self.share(self.prompts, load)
        if stage == "fit" and len(self.prompts["train"]) < self.batch_size:
            raise ConfigError(
                "data.batch_size",
                self.batch_size,
                rule=f"there are only {len(self.prompts['train'])} training prompts",
                fix=f"Set data.batch_size: {len(self.prompts['train'])} or less",
            )
        if stage in ("validate", "test") and needed[0] not in self.prompts:
            raise ConfigError(f"data.{needed[0]}", None, rule="must name the source of problems")

    def make_prompts(self, source: Source, key: str = SOURCE) -> list[Prompt]:
        """Renders a source with this module's template and tokenizer.

        Warns if its problems are among the training problems, once those are loaded.

        Args:
            source: Source of the problems.
            key: Its key in the configuration, for errors.
        """
        tokenizer = self._tokenizer()
        found = make_prompts(source, self.template, tokenizer, self.max_prompt_tokens, key)
        if not any(source is known for known in self.sources.values()):
            self._compare([prompt.problem.question for prompt in found], type(source).__name__)
        return found

    def _compare_splits(self) -> None:
        """Warns if problems for validation or test are among the training problems.

        A source that can't be read yet causes a warning, and does not stop the training.
        """
        for split in ("val", "test"):
            source = self.sources[split]
            if source is None:
                continue
            try:
                questions = [x.question for x in load_problems(source, f"data.{split}")]
            except (ConfigError, OSError) as error:
                told = "data.%s could not be compared with data.train: %s"
                log.warning(told, one_line(split), one_line(error))
            else:
                self._compare(questions, f"data.{split}")

    def _compare(self, questions: Sequence[str], name: str) -> None:
        train = self.prompts.get("train", [])
        tell_of_overlap((prompt.problem.question for prompt in train), questions, name)

    def _tokenizer(self) -> Any:
        """Returns the model's tokenizer, which loads without the model's weights.

        It is the model's own, so that only one tokenizer and one setting for it exist.
        """
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        return module.policy.tokenizer

    def train_dataloader(self) -> ResumableLoader:
        """Makes the loader of batches of B prompts, which resumes from a checkpoint."""
        assert self.trainer is not None
        self._loader = ResumableLoader(
            self.prompts["train"],
            self.batch_size,
            self.seed,
            self.order,
            self.trainer.limit_train_batches,
        )
        if self._cursor is not None:
            self._loader.load_state_dict(self._cursor)
        return self._loader

    def further_prompts(self, count: int, without: Sequence[Prompt]) -> list[Prompt]:
        """Draws training prompts beyond a step's batch.

        Args:
            count: Number of prompts; fewer are returned only if no more exist.
            without: The prompts of the step so far.
        """
        assert self._loader is not None
        return self._loader.take(count, without)

    def next_prompts(self) -> list[Prompt]:
        """Returns the prompts of the next step's batch, without drawing them."""
        assert self._loader is not None
        return self._loader.peek()

    def record(self, prompts: Sequence[Prompt], rewards: torch.Tensor) -> None:
        """Passes the rewards of a step's prompts to the order.

        Args:
            prompts: B prompts.
            rewards: Rewards (B, G), NaN where unscored.
        """
        assert self._loader is not None
        self._loader.record(prompts, rewards)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the training order.

        Lightning saves the loader's own state, too, but would restore it too late: by then, the
        loader has been built, since the learning-rate schedule asks for the number of steps.
        """
        return {
            "cursor": None if self._loader is None else self._loader.state_dict(),
            "facts": self.facts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the position of a checkpoint.

        Raises:
            ConfigError: If the prompts or their order differ: the position would be meaningless.
        """
        if "train" not in self.prompts:  # `validate` and `test` do not need it
            return
        check_same(
            state_dict["facts"],
            self.facts,
            told="the checkpoint was made with",
            why="Its position is within an order that is not this one",
            fix="Restore the settings of data, or start a new run from the vectors with "
            "model.steering.init_from",
        )
        self._cursor = state_dict["cursor"]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts on which the training order depends, by configuration key.

        Prompts, gold answers and the further columns, which rewards read, are represented by a
        checksum. Of values that JSON does not have, only the type counts.
        """
        assert self.trainer is not None
        crc = 0
        for prompt in self.prompts["train"]:
            columns = json.dumps(dict(prompt.problem.columns), default=_type_name, skipkeys=True)
            facts = repr((prompt.token_ids, prompt.problem.answer, columns))
            crc = zlib.crc32(facts.encode("utf-8", "replace"), crc)
        return {
            "data.batch_size": self.batch_size,
            "seed_everything": self.seed,
            "data.order": self._order_settings,
            "trainer.limit_train_batches": self.trainer.limit_train_batches,
            "data.train (number of prompts)": len(self.prompts["train"]),
            "data.train (checksum of the prompts)": crc,
        }

    def val_dataloader(self) -> DataLoader[Prompt] | list[DataLoader[Prompt]]:
        """Makes the loader of the validation problems, which keeps their order."""
        return self._in_order(self.prompts["val"]) if "val" in self.prompts else []

    def test_dataloader(self) -> DataLoader[Prompt]:
        """Makes the loader of the test problems, which keeps their order."""
        return self._in_order(self.prompts["test"])

    def _in_order(self, prompts: Sequence[Prompt]) -> DataLoader[Prompt]:
        return DataLoader(PromptList(prompts), batch_size=self.eval_batch_size, collate_fn=list)


def _type_name(value: object) -> str:
    """Returns what stands for a value whose text may differ from one process to the next."""
    return type(value).__name__
