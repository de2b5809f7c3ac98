"""Both answers draw the same random numbers, and are those of plain requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steer_lightning import save_vectors
from steer_lightning.endpoint.api_error import ApiError
from steer_lightning.errors import ConfigError
from steer_lightning.inference.service import TooManyRequests
from steer_lightning.play.mixture import Mixture
from steer_lightning.play.playground import Playground, Question, Sides
from steer_lightning.steering import load_vectors
from steer_lightning.steering.arithmetic import plain_vectors
from tests import played


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played.make_run(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def playground(run: Path) -> Iterator[Playground]:
    found = played.play_quickstart(run, max_requests=4).playground
    found.load()
    yield found
    found.close()


def question(**options: object) -> Question:
    mixture = Mixture(weights=(("run-1", 1.0),), layer_factors=(1.0,) * 4)
    settings = {"text": "59+63", "is_prompt": False, "mixture": mixture, **options}
    return Question(**settings)  # type: ignore[arg-type]


def answered(playground: Playground, asked: Question) -> Sides:
    sides = playground.start(asked, {})

    async def run() -> None:
        async for _ in playground.answer(sides):
            pass
        await playground.judge(sides)

    asyncio.run(run())
    return sides


def test_the_same_seed_draws_the_same_numbers_on_both_sides(playground: Playground) -> None:
    for seed in range(3):
        sides = answered(playground, question(scale=0.0, seed=seed))
        assert sides.base.ids == sides.steered.ids
    steered = answered(playground, question())
    assert steered.base.ids == answered(playground, question(scale=0.0)).base.ids
    assert steered.base.ids != steered.steered.ids
    assert answered(playground, question(scale=-1.0)).steered.ids != steered.steered.ids


def test_the_template_of_the_run_is_used_unless_the_text_is_the_prompt(
    playground: Playground,
) -> None:
    rendered = playground.start(question(), {})
    whole = playground.start(question(text="59+63=?\n", is_prompt=True), {})
    assert rendered.prompt_ids == whole.prompt_ids
    assert playground.start(question(is_prompt=True), {}).prompt_ids != whole.prompt_ids


def test_layers_and_steps_change_the_vectors(playground: Playground, run: Path) -> None:
    rows = load_vectors(run / "steering_vectors.safetensors").vectors.detach()
    mixture = Mixture(weights=(("run-1", 0.5),), layer_factors=(1.0, 0.0, 2.0, 1.0))
    found = playground.steering_of(question(mixture=mixture), {})
    factors = torch.tensor([1.0, 0.0, 2.0, 1.0])[:, None]
    assert torch.allclose(found.vectors, 0.5 * factors * rows)
    assert playground.steering_of(question(mixture=mixture), {}) is found, "kept"
    at_step = playground.steering_of(question(step=20), {})
    assert torch.allclose(at_step.vectors, rows * 2 / 3)
    assert playground.steering_of(question(step=30), {}) is playground.models.vectors["run-1"]


def test_known_problems_get_a_verdict(playground: Playground) -> None:
    problem = next(iter(playground.questions.problems.values()))
    sides = answered(playground, question(text=problem.question))
    assert sides.base.verdict is not None
    assert sides.base.verdict.answer == problem.answer
    assert answered(playground, question(text="1+1=?")).base.verdict is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 2.5}, "temperature = 2.5: must be from 0 to 2"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"most_tokens": 0}, "length = 0: must be from 1"),
        ({"most_tokens": 512}, "length = 512: must be from 1 to 511"),
        ({"seed": -1}, "seed = -1"),
        ({"scale": 101.0}, "scale = 101.0: must be from -100 to 100"),
        ({"scale": float("inf")}, "scale = inf"),
        (
            {"mixture": Mixture(weights=(("run-1", 1.0),), layer_factors=(1.0, 1.0, 1e9, 1.0))},
            "layer 2 = 1000000000.0",
        ),
        ({"text": "", "is_prompt": True}, "at least one token"),
        ({"text": "1+" * 400}, "Send a shorter prompt"),
        ({"most_tokens": 510}, "exceed the 512"),
        ({"text": "\ud800"}, "surrogate"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_sampled(
    playground: Playground, options: dict[str, object], told: str
) -> None:
    with pytest.raises((ConfigError, ApiError)) as caught:
        playground.start(question(**options), {})
    assert told in str(caught.value)


def test_vectors_that_break_the_base_are_told_of(playground: Playground) -> None:
    sides = playground.start(question(), {})
    sides.vectors = plain_vectors(torch.full((4, 192), torch.nan), range(4), 4)

    async def run() -> None:
        async for _ in playground.answer(sides):
            pass

    with pytest.raises(FloatingPointError, match="too large"):
        asyncio.run(run())
    assert answered(playground, question()).steered.ids


def test_too_many_answers_are_refused(playground: Playground) -> None:
    async def run() -> None:
        sides = [playground.start(question(), {}) for _ in range(3)]
        runs = [playground.answer(one) for one in sides]
        waiting = [asyncio.ensure_future(anext(one)) for one in runs]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert any(isinstance(result, TooManyRequests) for result in results)
        for one in runs:
            await one.aclose()

    asyncio.run(run())


def test_files_of_other_things_and_bases_are_refused(
    playground: Playground, tmp_path: Path
) -> None:
    save_vectors(torch.ones(2, 8), tmp_path / "other.safetensors", base_model="m")
    with pytest.raises(ConfigError, match="does not fit"):
        playground.load_file(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError):
        playground.load_file(tmp_path / "broken.safetensors")


def test_tokens_have_their_texts(playground: Playground) -> None:
    sides = answered(playground, question(scale=0.0))
    texts = playground.texts_of(sides.base.ids)
    assert "".join(texts[:-1]) == sides.base.found.text
    assert texts[-1] == "<eos>"
    assert playground.texts_of(()) == []
