"""The page of settings: it has every key of `fit`, and words for types and defaults."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import settings_text
from settings_text import (
    TARGETS,
    anchor,
    classes_text,
    description,
    facts,
    keys_text,
    of_trainer,
    parameters,
    rows,
    shown_default,
    shown_type,
)

from steer_lightning.advantages import Advantage
from steer_lightning.cli import fit
from steer_lightning.cli.short_names import CLASSES
from steer_lightning.rollout import Sampling

PAGE = (Path(__file__).parents[4] / "docs/reference/settings.md").read_text()


@dataclass(frozen=True)
class Inner:
    """Settings.

    Attributes:
        size: A size.
    """

    size: int = 3


def taker(
    name: str,
    size: int = 3,
    rate: float = 0.5,
    kind: Literal["a", "b"] = "a",
    parts: Sequence[str] = (),
    gone: str | None = None,
) -> None:
    """Takes arguments.

    Args:
        name: A name.
        size: A size
            in two lines.
        rate: A rate.
        kind: A kind.
        parts: Parts.
        gone: Null for none.
    """


def test_a_definition_list_has_name_text_type_and_default() -> None:
    assert list(rows(taker, "x."))[:2] == [
        "[`x.name`]{#x-name}\n: A name. *Type:* text; must be set.\n",
        "[`x.size`]{#x-size}\n: A size in two lines. *Type:* int; default `3`.\n",
    ]
    assert list(rows(taker, "export --"))[2].startswith("[`--rate`]{#export-rate}\n")
    assert list(rows(Inner, "", Inner(size=7))) == [
        "[`size`]{#size}\n: A size. *Type:* int; default `7`.\n"
    ]


def test_settings_that_are_described_elsewhere_are_linked() -> None:
    text = next(
        row for row in rows(TARGETS["evaluate"], "", page="x.md") if "[`base_sampling`]" in row
    )
    assert text.endswith(
        "default `null`. The keys are those of [`model.sampling`](x.md#model-sampling).\n"
    )
    assert "with weight 0 the reward is only logged" in keys_text("model", 3)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (Literal["a", "b"], "`a` or `b`"),
        (list[int] | None, "list of int or null"),
        (list[int] | str, "list of int or text"),
        (dict[str, float], "mapping of names to float"),
        (Advantage | None, "[Advantage](#advantage) or null"),
        (Sampling, "mapping"),
        (list[Sampling] | None, "list of mappings or null"),
        (Callable[[int], int], "function"),
        (Any, "anything"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert shown_type(annotation) == words


def test_defaults_are_as_in_yaml() -> None:
    given = [None, True, 3, 0.5, "rms", "", [1, 2], (), taker, Sampling()]
    assert [shown_default(x) for x in given] == [
        *("`null`", "`true`", "`3`", "`0.5`", "`rms`", "`''`", "`[1, 2]`", "`[]`", "`taker`", "")
    ]
    assert facts(Sampling, Sampling()) == "*Type:* mapping."
    assert facts(str, inspect.Parameter.empty) == "*Type:* text; must be set."


def options_of_fit() -> set[str]:
    """Options that the real parser of `fit` has."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        fit.run(["fit", "--help"])
    found = re.findall(r"^  (?:-\w(?: \w+)?, )?--([\w.]+)", said.getvalue(), re.MULTILINE)
    return {name for name in found if not name.endswith(".help")}


def test_the_page_has_every_option_of_fit() -> None:
    text = "\n".join(keys_text(word, 3) for word in ("model", "data", "trainer"))
    shown = {*re.findall(r"^### `(\S+)`$", text, re.MULTILINE)}
    shown |= {*re.findall(r"^\[`(\S+)`\]", text, re.MULTILINE)}
    asked = {"model", "data", "trainer"}  # files with a whole section
    own = {"help", "config", "print_config", "seed_everything", "ckpt_path", "weights_only"}
    options = options_of_fit() - own - asked
    nested = {name for name in options if any(x.startswith(f"{name}.") for x in options)}
    assert len(options) > 80
    assert options - nested <= shown
    # keys below these are no options of their own, but keys of a mapping
    mappings = ("model.rewards.", "model.dynamic_sampling.", "model.kl_in_reward.")
    mappings += ("model.guidance.", "model.reward_pool.", "model.length_in_reward.")
    mappings += ("model.quantization.",)
    assert {name for name in shown - options if not name.startswith(mappings)} == set()


def test_the_page_asks_for_every_group_and_kind_of_class() -> None:
    asked = re.findall(r"^<!-- generated: (\w+) (\S+) -->$", PAGE, re.MULTILINE)
    assert [word for writer, word in asked if writer == "keys"] == ["model", "data", "trainer"]
    assert {word for writer, word in asked if writer == "classes"} == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_there_with_its_arguments(kind: str) -> None:
    text = classes_text(kind, 3)
    assert all(f"`{name}`" in text for name in CLASSES[kind])
    for part in re.split(r"^#### ", text, flags=re.MULTILINE)[1:]:
        assert "*API:* {py:class}" in part
        assert ("It takes no arguments." in part) != ("*Type:*" in part)
        assert "\n: *Type:*" not in part, "an argument without a description"


def test_every_setting_is_described() -> None:
    missing = {
        f"{word}.{x.name}"
        for word, target in TARGETS.items()
        for x in parameters(target)
        if not description(f"{word}.{x.name}", x)
    }
    assert missing == set()


def test_the_trainers_options_are_described_as_they_work_here() -> None:
    told = of_trainer()
    assert {x.name for x in parameters(settings_text.TARGETS["trainer"])} <= set(told)
    assert told["overfit_batches"].startswith("Refused. ")
    text = keys_text("trainer", 3)
    assert "Default: ``" not in text
    assert "](#problems" not in text


def test_an_anchor_is_what_others_link_to() -> None:
    assert anchor("model.sampling") == "model-sampling"
    assert anchor("LoRA rank") == "lora-rank"
    assert anchor("vectors scale --output") == "vectors-scale-output"
