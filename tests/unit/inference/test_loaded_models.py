"""Models by their names: which there are, and what is refused before the base loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_lightning import save_vectors
from steer_lightning.data import ChatTemplate, PlainTemplate
from steer_lightning.errors import ConfigError
from steer_lightning.inference import loaded_models
from steer_lightning.inference.loaded_models import LoadedModels, names_of
from steer_lightning.steering import BitFit, LoReFT
from steer_lightning.system.run_files import SUMMARY
from steer_lightning.testing import save_tiny, tiny_policy
from tests.live import ask, fly


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("base"), "llama")


def vectors(path: Path, base: str, width: int = 32) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_vectors(torch.randn(3, width), path, base_model=base)
    return str(path)


def run(folder: Path, base: str) -> str:
    vectors(folder / "steering_vectors.safetensors", base)
    vectors(folder / "best.safetensors", base)
    (folder / SUMMARY).touch()
    return str(folder)


def test_names_are_those_of_files_and_runs(base: str, tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "a/run-1", base),
        run(tmp_path / "b/run-1", base),
        str(tmp_path / "a/run-1/best.safetensors"),
        vectors(tmp_path / "mine-0.1.safetensors", base),
        vectors(tmp_path / "c/base.safetensors", base),
    ]
    assert list(names_of(paths[:1])) == ["run-1"]
    assert list(names_of([f"{paths[0]}/steering_vectors.safetensors"])) == ["run-1"]
    assert list(names_of(paths[2:4])) == ["best", "mine-0.1"]
    assert list(names_of(paths[:2])) == ["a/run-1", "b/run-1"]
    assert list(names_of(paths[4:])) == ["c/base"]
    with pytest.raises(ConfigError, match="names a file twice"):
        names_of([paths[0], paths[0]])
    with pytest.raises(ConfigError, match="no such file"):
        names_of(["nowhere"])


def test_a_name_stands_for_vectors_and_a_scale(base: str, tmp_path: Path) -> None:
    paths = [vectors(tmp_path / name, base) for name in ("a.safetensors", "b@2.safetensors")]
    models = LoadedModels(paths)
    assert models.names == ["base", "a", "b@2"]
    assert models.find("base").vectors is None
    assert models.find("a") == (models.vectors["a"], 1.0)
    assert models.find("a@-0.5") == (models.vectors["a"], -0.5)
    assert models.find("b@2") == (models.vectors["b@2"], 1.0)
    assert models.find("b@2@0") == (models.vectors["b@2"], 0.0)
    for name in ("c", "", "c@1", "base@2", "a@", "a@x", "a@nan", "a@inf", "a@101"):
        with pytest.raises(LookupError, match="there is no model"):
            models.find(name)
    with pytest.raises(LookupError, match=r"base, a, b@2, and NAME@0\.5"):
        models.find("c")


def test_what_the_base_needs_is_known_before_it_loads(base: str, tmp_path: Path) -> None:
    models = LoadedModels([], base)
    assert models.policy.model is None
    assert models.max_length == 256, "as many as the base has positions"
    assert models.template is None, "there is no chat template"
    template = PlainTemplate("{question}:")
    assert LoadedModels([], base, template=template, max_length=32).template is template
    with pytest.raises(ConfigError, match="reads texts of up to 256 tokens"):
        LoadedModels([], base, max_length=257)
    with pytest.raises(ConfigError, match=r"max_length = 31: must be at least 32\. Made-up"):
        LoadedModels([], base, max_length=31)
    with pytest.raises(ConfigError, match="max_rows = 0: must be at least 1"):
        LoadedModels([], base, max_rows=0)
    with pytest.raises(ConfigError, match="base = None: must be given"):
        LoadedModels([])
    with pytest.raises(ConfigError, match="has no chat template"):
        LoadedModels([], base, template=ChatTemplate())
    other = vectors(tmp_path / "other.safetensors", "elsewhere", width=64)
    with pytest.raises(ConfigError, match="does not fit"):
        LoadedModels([other], base)
    with pytest.raises(ConfigError, match="trust_remote_code"):
        LoadedModels([vectors(tmp_path / "a.safetensors", base)], trust_remote_code=True)


@pytest.mark.parametrize("kind", [BitFit, LoReFT])
def test_results_other_than_vectors_are_refused(
    kind: type[BitFit | LoReFT], base: str, tmp_path: Path
) -> None:
    steering = kind()
    tiny_policy("qwen2", steering)
    steering.save(tmp_path / steering.file_name, base_model=base)
    told = "no vectors that are added to the stream.*in Python, with attach and generate"
    with pytest.raises(ConfigError, match=told):
        LoadedModels([str(tmp_path / steering.file_name)])


def test_a_loaded_base_is_checked_and_answers(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vectors(tmp_path / "a.safetensors", base)
    models = LoadedModels([path], max_rows=3)
    flight = models.load()
    assert (flight.max_rows, flight.max_length) == (3, 256)
    asked = [ask(seed=5, vectors=models.find(name).vectors) for name in ("base", "a")]
    fly(flight, asked)
    assert asked[0].answers != asked[1].answers
    told = {None: None, models.vectors["a"]: "they differ\nby 2"}
    monkeypatch.setattr(loaded_models, "why_not", lambda flight, vectors: told.get(vectors))
    models = LoadedModels([path])
    told[models.vectors["a"]] = "they differ\nby 2"
    with pytest.raises(ConfigError, match=r"with the model a: they differ\\nby 2"):
        models.load()
