"""The controls have the range of what there is to set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steer_lightning import save_vectors
from steer_lightning.play.controls import (
    AS_PROMPT,
    AS_QUESTION,
    layer_controls,
    mixing_controls,
    number_controls,
    prompt_controls,
    step_slider,
)
from steer_lightning.play.playground import Playground
from steer_lightning.play.server import Play
from steer_lightning.testing import save_tiny
from tests import played


@pytest.fixture(params=[(10, 20, 30), (5, 20, 30), (10,), ()], ids=str)
def playground(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Playground]:
    steps = request.param
    run = played.make_run(tmp_path, (*steps,)) if steps else played.make_run(tmp_path, (1,))
    if not steps:
        (run / "vectors/step_000001.safetensors").unlink()
    found = played.play_quickstart(run).playground
    found.load()
    yield found
    found.close()


def test_the_slider_reaches_every_step(playground: Playground) -> None:
    steps, slider = playground.checkpoints.steps, played.in_blocks(lambda: step_slider(playground))
    assert slider.visible == (len(steps) > 1)
    if len(steps) > 1:
        assert (slider.minimum, slider.maximum, slider.value) == (steps[0], steps[-1], steps[-1])
        assert all((step - steps[0]) % slider.step == 0 for step in steps)


def test_each_layer_has_a_factor_and_a_switch(playground: Playground) -> None:
    acting, factors = played.in_blocks(lambda: layer_controls(playground))
    assert acting.value == ["0", "1", "2", "3"]
    assert [factor.value for factor in factors] == [1.0] * 4


def test_numbers_and_names_are_those_of_the_run(playground: Playground) -> None:
    seed, length = played.in_blocks(lambda: number_controls(playground))
    assert (seed.value, length.value, length.maximum) == (0, 64, 511)
    mixing = played.in_blocks(lambda: mixing_controls(playground))
    assert mixing.expression.value == mixing.part.value == "run-1"
    assert mixing.weight.value == 1.0
    chosen, _, kind = played.in_blocks(lambda: prompt_controls(playground))
    assert len(chosen.choices) == 21
    assert kind.value == AS_QUESTION


def test_without_a_template_a_prompt_is_read_as_it_is(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    save_vectors(torch.ones(3, 32), tmp_path / "x.safetensors", base_model=base)
    playground = Play(str(tmp_path / "x.safetensors"), port=0).playground
    _, _, kind = played.in_blocks(lambda: prompt_controls(playground))
    assert (kind.value, kind.visible) == (AS_PROMPT, False)
