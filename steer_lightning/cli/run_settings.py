"""The settings of `evaluate` that follow from the configuration of the evaluated run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.system.run_files import CONFIG, is_run
from steer_lightning.system.yaml_size import load_bounded

REWARDS = "steer_lightning.rewards"
BENCHMARKS = "BenchmarkEval"
"""Class name of the callback that holds the run's benchmarks."""

MATH = {f"{place}MathReward" for place in ("", f"{REWARDS}.", f"{REWARDS}.math.")}
"""Names of the one reward that is also the default verifier."""


def settings_of_runs(
    paths: Sequence[str], given: Collection[str] = ()
) -> tuple[dict[str, Any], list[Path]]:
    """Reads from the configurations of runs how `evaluate` should answer and judge.

    Benchmarks, sampling and verifier are those of the run's `BenchmarkEval`. For a run without
    `BenchmarkEval`, the problems of `data.test`, or otherwise of `data.val`, are answered as
    `test` and `validate` do. Template, longest prompt, dtype and revision are those of the run, but
    not its quantisation: vectors are measured on the base as it is stored, unless the option asks
    for another one. A vectors file outside the folder of a run yields no settings.

    Args:
        paths: Results of runs: files, or folders of runs.
        given: Options that the user has set; runs may differ in them.

    Returns:
        Settings by option name, as plain YAML values, and the files that they come from.

    Raises:
        ConfigError: If a file is damaged, or if runs differ in one of these settings.
    """
    files = list(dict.fromkeys(file for path in paths for file in _config_of(path)))
    each = [_settings(_read(file)) for file in files]
    found = dict(each[0]) if each else {}
    for file, settings in zip(files, each, strict=True):
        for key in sorted(each[0].keys() | settings.keys()):
            if each[0].get(key) == settings.get(key):
                continue
            if key not in given:
                raise ConfigError(
                    key,
                    UNKNOWN,
                    rule=f"must be given, because {files[0]} and {file} differ in it",
                    why="All results are evaluated in the same way",
                    fix="Give it as an option, or in the YAML file given by --config",
                )
            found.pop(key, None)
    return found, files


def given_options(words: Sequence[str]) -> dict[str, Any]:
    """Reads roughly which options the words of a command, and its files, set.

    The parser reports mistakes.

    Args:
        words: Words of the command line.

    Returns:
        Values by option, in the order in which the parser reads them. A value from a file is plain
        YAML; a value from a word is text, or a list of texts. `--a.b` has the name `a.b`.
    """
    found: dict[str, Any] = {}
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, is_joined, value = word[2:].partition("=")
        values = [value] if is_joined else list(takewhile(_is_value, words[place + 1 :]))
        if len(values) == 1 and values[0].startswith("["):
            values = _yaml(values[0])
        if name != "config":
            found[name.replace("-", "_")] = values
        elif values and Path(values[0]).is_file():
            content = _yaml(Path(values[0]).read_text(encoding="utf-8", errors="replace"))
            found |= content if isinstance(content, dict) else {}
    return found


def texts(value: Any) -> list[str]:
    """Returns the texts of a value that should be one text or a list of texts."""
    return [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, str)]


def _is_value(word: str) -> bool:
    return not word.startswith("--")


def _yaml(text: str) -> Any:
    """Parses YAML; returns None for invalid YAML, which the parser of the command reports."""
    try:
        return load_bounded(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _config_of(path: str) -> Iterator[Path]:
    """Yields the configuration of the run that a result belongs to, if there is one."""
    place = Path(path).expanduser()
    for folder in (place, *place.parents[:2]):
        if is_run(folder) and (folder / CONFIG).is_file():
            yield folder / CONFIG
            return


def _read(file: Path) -> dict[str, Any]:
    try:
        config = load_bounded(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(file, str(error)) from error
    found: dict[str, Any] = config if isinstance(config, dict) else {}
    if not all(isinstance(found.get(key), dict) for key in ("model", "data", "trainer")):
        raise _unreadable(file, "it lacks model, data or trainer")
    return found


def _unreadable(file: Path, detail: str) -> ConfigError:
    return ConfigError("vectors", str(file), rule=f"can't be read ({detail})")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the settings of `evaluate` from a run's configuration."""
    model, data = config["model"], config["data"]
    callback = _benchmark_eval(config["trainer"].get("callbacks"))
    benchmarks = callback.get("benchmarks")
    if benchmarks is None:
        places = {"test": "test", "validation": "val"} if not callback else {"validation": "val"}
        given = {name: data.get(key) for name, key in places.items() if data.get(key)}
        benchmarks = dict(list(given.items())[:1])
    sampling = callback.get("sampling") or model.get("eval_sampling")
    found = {
        "benchmarks": benchmarks,
        "sampling": sampling or {**(model.get("sampling") or {}), "group_size": 1},
        "verifier": callback.get("verifier") or model.get("verifier") or _own_math(model),
        "template": data.get("template"),
        "max_prompt_tokens": data.get("max_prompt_tokens"),
        "dtype": model.get("dtype"),
        "revision": model.get("revision"),
    }
    return {key: value for key, value in found.items() if value}


def _own_math(model: Mapping[str, Any]) -> Any:
    """Returns the only `MathReward` among the rewards if it does not look in a box, else None.

    Then `verifier_of` takes its settings; otherwise it takes the default ones.
    """
    rewards = [part.get("reward") for part in model.get("rewards") or [] if isinstance(part, dict)]
    named = [reward for reward in rewards if isinstance(reward, dict)]
    found = [reward for reward in named if reward.get("class_path") in MATH]
    settings = (found[0].get("init_args") or {}) if len(found) == 1 else {}
    return found[0] if settings.get("answer_in", "boxed") != "boxed" else None


def _benchmark_eval(callbacks: Any) -> dict[str, Any]:
    """Returns the settings of a trainer's first `BenchmarkEval`; empty if there is none."""
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = callback.get("class_path", "") if isinstance(callback, dict) else ""
        if name.rpartition(".")[2] == BENCHMARKS:
            found: dict[str, Any] = callback.get("init_args") or {}
            return found or {"benchmarks": None}
    return {}
