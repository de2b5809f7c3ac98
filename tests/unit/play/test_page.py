"""What the page makes of the values of its controls; `tests/browser/test_play.py` uses them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from steer_lightning.errors import ConfigError
from steer_lightning.play.controls import AS_PROMPT, AS_QUESTION
from steer_lightning.play.page import Page, asset
from steer_lightning.play.session import Session
from tests import played


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("work")
    playground = played.play_quickstart(played.make_run(folder)).playground
    playground.load()
    yield Page(playground, folder)
    playground.close()


def values(**changes: Any) -> list[Any]:
    """The values of all controls that make up a question."""
    found = {
        "text": "1+1",
        "kind": AS_QUESTION,
        "expression": "run-1",
        "step": 30,
        "scale": 1,
        "temperature": 1,
        "seed": 0,
        "length": 64,
        "acting": ["0", "1", "2", "3"],
        "factors": [1, 1, 1, 1],
        **changes,
    }
    return [*(found[key] for key in found if key != "factors"), *found["factors"]]


def test_controls_make_up_a_question(page: Page) -> None:
    changes = {"kind": AS_PROMPT, "acting": ["0", "3"], "factors": [0.5, 2, 3, -1], "scale": 2}
    found = page._question(Session(), values(**changes, expression="-0.5 * run-1", seed=7, step=20))
    assert found.is_prompt
    assert found.mixture.layer_factors == (0.5, 0.0, 0.0, -1.0)
    assert found.mixture.weights == (("run-1", -0.5),)
    assert (found.scale, found.seed, found.step, found.most_tokens) == (2.0, 7, 20, 64)


@pytest.mark.parametrize("key", ["seed", "length"])
def test_empty_numbers_are_refused(page: Page, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = None: must be a number"):
        page._question(Session(), values(**{key: None}))


def test_further_files_get_names_of_their_own(page: Page, tmp_path: Path) -> None:
    run = played.make_run(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
    file = str(run / "vectors/step_000010.safetensors")
    tab = SimpleNamespace(session_hash="tab")
    copies = [shutil.copy(file, tmp_path / name / "step_000010.safetensors") for name in "ab"]
    part, weight = page._load(tab, copies)
    assert [name for name, _ in part.choices] == ["run-1", "step_000010", "step_000010 (2)"]
    assert (part.value, weight) == ("step_000010 (2)", 0.0)
    mixed = page._weigh(tab, "run-1", "step_000010", -0.5)
    assert mixed == "run-1 - 0.5 * step_000010"
    assert page._weight_of(tab, mixed, "step_000010") == -0.5
    assert page._weight_of(tab, mixed, "step_000010 (2)") == 0.0
    assert page._weight_of(tab, "9 * run-1", "run-1") == 3.0, "the end of the slider"
    assert list(page.sessions.of("tab").others) == ["step_000010", "step_000010 (2)"]
    assert not any(Path(copy).exists() for copy in copies), "the tab has loaded them"
    with pytest.raises(gr.Error):
        page._load(tab, [shutil.copy(run / "config.yaml", tmp_path / "x.safetensors")])
    with pytest.raises(gr.Error, match="told from a sum with run-1"):
        page._load(tab, [shutil.copy(file, tmp_path / "run-1 - b.safetensors")])
    with pytest.raises(gr.Error, match="may load 16 files"):
        page._load(tab, [str(tmp_path / f"{k}") for k in range(15)])
    page._leave(tab)
    assert page.sessions.of("tab").others == {}


def test_the_parts_of_the_page_are_in_the_package() -> None:
    for name in ("tokens.js", "place.js", "page.css"):
        assert "sl-" in asset(name)
    for name in ("tokens.js", "place.js"):
        assert "innerHTML" not in asset(name)
