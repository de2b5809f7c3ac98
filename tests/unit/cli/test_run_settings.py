"""What `evaluate` takes from the configuration of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from steer_lightning import ConfigError
from steer_lightning.cli.run_settings import given_options, settings_of_runs, texts

SAMPLING = {"group_size": 8, "max_new_tokens": 64}
ONCE = {"group_size": 1, "max_new_tokens": 32}
MODEL = {"base": "quickstart", "dtype": "float32", "revision": None, "sampling": SAMPLING}
DATA = {"template": {"class_path": "my.Template"}, "max_prompt_tokens": 99, "test": {"path": "t"}}
SHARED = {"template": {"class_path": "my.Template"}, "max_prompt_tokens": 99, "dtype": "float32"}


def make_run(folder: Path, config: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").touch()
    (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.dump(config))
    return str(folder)


LAST_NUMBER = {
    "class_path": "steer_lightning.rewards.MathReward",
    "init_args": {"answer_in": "last_number"},
}

BOXED = {**LAST_NUMBER, "init_args": {"answer_in": "boxed"}}
MINE = {**LAST_NUMBER, "class_path": "my.MathReward"}


def config(callbacks: Any = None, **changes: Any) -> dict[str, Any]:
    """A configuration; `val` and `test` are keys of the data, others of the model."""
    model = MODEL | {key: value for key, value in changes.items() if key not in ("val", "test")}
    data = DATA | {key: value for key, value in changes.items() if key in ("val", "test")}
    return {"model": model, "data": data, "trainer": {"callbacks": callbacks}}


def benchmark_eval(**settings: Any) -> list[dict[str, Any]]:
    other = {"class_path": "my.Callback"}
    return [other, {"class_path": "callbacks.BenchmarkEval", "init_args": settings}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            config(benchmark_eval(benchmarks={"a": 1}, sampling=ONCE, verifier="my.exact")),
            {"benchmarks": {"a": 1}, "sampling": ONCE, "verifier": "my.exact"},
        ),
        (  # as the callback does with null
            config(benchmark_eval(), eval_sampling=ONCE, val={"path": "v"}, verifier="my.other"),
            {
                "benchmarks": {"validation": {"path": "v"}},
                "sampling": ONCE,
                "verifier": "my.other",
            },
        ),
        (  # as both do with null
            config(rewards=[{"reward": LAST_NUMBER, "weight": 1.0}, {"reward": "my.form"}]),
            {
                "benchmarks": {"test": {"path": "t"}},
                "sampling": {**SAMPLING, "group_size": 1},
                "verifier": LAST_NUMBER,
            },
        ),
        *[
            (config(test=None, rewards=rewards), {"sampling": {**SAMPLING, "group_size": 1}})
            for rewards in ([{"reward": BOXED}], [{"reward": MINE}], [{"reward": BOXED}, {}])
        ],  # so that runs whose verifiers are the same can be evaluated together
        (
            config(test=None, rewards=[{"reward": LAST_NUMBER}, {"reward": LAST_NUMBER}]),
            {"sampling": {**SAMPLING, "group_size": 1}},
        ),
        (  # as `steer-lightning test` does
            config(verifier="my.exact", val={"path": "v"}),
            {
                "benchmarks": {"test": {"path": "t"}},
                "sampling": {**SAMPLING, "group_size": 1},
                "verifier": "my.exact",
            },
        ),
        (
            config(test=None, val={"path": "v"}),
            {
                "benchmarks": {"validation": {"path": "v"}},
                "sampling": {**SAMPLING, "group_size": 1},
            },
        ),
        (config(test=None), {"sampling": {**SAMPLING, "group_size": 1}}),
    ],
    ids=[
        *("callback", "callback of null", "reward", "boxed", "mine", "both", "rewards", "test"),
        *("validation", "no problems"),
    ],
)
def test_settings_come_from_the_runs_configuration(
    given: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run-1", given)
    found, files = settings_of_runs([run, f"{run}/vectors/step_1.safetensors"])
    assert found == {**SHARED, **expected}
    assert files == [tmp_path / "run-1/config.yaml"]


def test_a_file_outside_runs_brings_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.dump(config()))  # of no run: nothing else is there
    (tmp_path / "v.safetensors").touch()
    assert settings_of_runs([str(tmp_path / "v.safetensors"), "/none"]) == ({}, [])


def test_runs_that_differ_are_told_apart(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "run-1", config()),
        make_run(tmp_path / "run-2", config(dtype="bfloat16")),
    ]
    told = r"dtype: must be given, because .*run-1.* and .*run-2.* differ"
    with pytest.raises(ConfigError, match=told):
        settings_of_runs(paths, {"dtype.not": 1})
    found, files = settings_of_runs(paths, {"dtype": "float32"})
    assert "dtype" not in found
    assert found["max_prompt_tokens"] == 99
    assert len(files) == 2


@pytest.mark.parametrize("text", ["model: [", "", "1", "model: {}\ndata: {}", "a: &a [*a, *a]"])
def test_a_damaged_configuration_is_told_of(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vectors = .*config\.yaml': can't be read"):
        settings_of_runs([make_run(tmp_path / "run-1", text)])


def test_values_are_found_where_the_parser_finds_them(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("vectors: [c, d]\nscales: [1.0]\nsampling: {top_k: 1}")
    file = f"--config={tmp_path / 'e.yaml'}"
    for words, expected in (
        (["--vectors", "a", "b", "--seed", "1"], ["a", "b"]),
        (["--vectors=a"], ["a"]),
        (['--vectors=["a","b"]'], ["a", "b"]),
        (["--vectors", "[a, b]"], ["a", "b"]),
        ([file], ["c", "d"]),
        (["--config", str(tmp_path / "e.yaml"), "--vectors", "a"], ["a"]),
        (["--seed=1"], []),
        (["--vectors"], []),
        (["--config", "none.yaml", "--vectors=["], []),
    ):
        assert texts(given_options(words).get("vectors")) == expected, words
    given = given_options([file, "--sampling.top-p=1", "--seed", "3"])
    assert given.keys() == {"vectors", "scales", "sampling", "sampling.top_p", "seed"}
    assert given["sampling"] == {"top_k": 1}
