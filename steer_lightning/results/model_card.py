"""Writes the model card of a run: what was trained, on what data, how, and with which result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from steer_lightning.errors import ConfigError
from steer_lightning.steering import SteeringVectors, load_vectors
from steer_lightning.steering.base import BASE_BITS
from steer_lightning.system.printable import python_text
from steer_lightning.system.run_files import CONFIG, EVALUATION, RESULTS, SUMMARY

HUB_DATA = {
    "GSM8K": "openai/gsm8k",
    "Math": "DigitalLearningGmbH/MATH-lighteval",
    "DeepScaleR": "agentica-org/DeepScaleR-Preview-Dataset",
    "SVAMP": "ChilleD/SVAMP",
}
"""Data sets on the hub, by the class that reads them."""

SETTINGS = (
    *("data.train", "data.template", "data.batch_size", "model.sampling.group_size"),
    *("model.sampling.temperature", "model.sampling.max_new_tokens", "model.rewards"),
    *("model.advantage", "model.loss", "model.optimizer", "model.schedule", "model.gradient_clip"),
    *("model.steering.layers", "model.steering.site", "model.steering.tokens"),
    *("model.steering.scale", "model.steering.init_from", "model.revision", "model.dtype"),
    *("model.quantization", "seed_everything"),
)
"""Keys of a run's configuration that the card shows."""


def read_run(folder: Path) -> tuple[SteeringVectors, dict[str, Any], dict[str, Any]]:
    """Reads vectors, summary and configuration of a run; the last two are empty if missing.

    Raises:
        ConfigError: If there are no vectors or a file is damaged.
    """
    path = folder / SteeringVectors.file_name
    if not path.is_file():
        raise ConfigError(
            "run",
            str(folder),
            rule=f"is not the folder of a run: it has no {SteeringVectors.file_name}",
            fix="Name a folder such as runs/my-run/run-1",
        )
    return load_vectors(path), _read(folder / SUMMARY), _read(folder / CONFIG)


def model_card(folder: Path, repo_id: str) -> ModelCard:
    """Makes the card of a run.

    Args:
        folder: The run's folder.
        repo_id: The repository that the card is for, as USER/NAME.

    Raises:
        ConfigError: If the folder holds no run or a file is damaged.
    """
    vectors, summary, config = read_run(folder)
    base = vectors.metadata.get("base_model", "")
    data = ModelCardData(
        base_model=base if is_hub_id(base) else None,
        datasets=_datasets(config),
        library_name="steer-lightning",
        pipeline_tag="text-generation",
        tags=["steering-vectors", "reinforcement-learning"],
        model_name=repo_id.split("/")[-1],
        eval_results=_results(summary),
    )
    text = "\n\n".join(_sections(vectors, base, repo_id, summary, config, folder))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def is_hub_id(base: str) -> bool:
    """Tells whether a base has a hub name, so that others can find it."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not (
        base.startswith(".") or Path(base).is_dir()
    )


def _sections(
    vectors: SteeringVectors,
    base: str,
    repo_id: str,
    summary: dict[str, Any],
    config: dict[str, Any],
    folder: Path,
) -> Iterator[str]:
    step, revision = vectors.metadata.get("step"), vectors.metadata.get("revision")
    yield f"# {repo_id.split('/')[-1]}"
    yield (
        f"Steering vectors for {_link(base)}: one vector of width {vectors.width} for each of "
        f"{len(vectors.layers)} of its {vectors.num_layers} decoder layers, "
        f"{vectors.num_trained:,} numbers in total, {_place(vectors)}. Learned by "
        f"reinforcement learning{f' in {step} steps' if step else ''}, while the model itself "
        "stayed frozen (method: [arXiv 2505.18706](https://arxiv.org/abs/2505.18706))."
    )
    yield "\n".join(
        [
            "```python",
            "from steer_lightning import attach, from_hub, load_model",
            "",
            f"base = {python_text(base or 'BASE_MODEL')}",
            *([f"revision = {python_text(revision)}"] if revision else []),
            f"model, tokenizer = load_model({'base, revision=revision' if revision else 'base'})",
            f"vectors = from_hub({python_text(repo_id)})",
            "with attach(model, vectors):",
            "    model.generate(...)",
            "```",
        ]
    )
    bits = vectors.metadata.get(BASE_BITS)
    if bits:
        yield (
            f"In training, the base's linear layers were in {_as_code(bits)} bits "
            "(`model.quantization.bits`). The code above loads the base as it is stored, which is "
            "another model to these vectors. Before they are attached, `quantize_base(model, bits)`"
            " of `steer_lightning.model.quantization` makes it the one that they were trained on."
        )
    yield from _figures(summary, config, folder)
    settings = [(key, _value(config, key)) for key in SETTINGS]
    rows = [[f"`{key}`", value] for key, value in settings if value is not None]
    if rows:
        yield f"## Settings\n\n`{CONFIG}` has all of them.\n\n" + _table(["key", "value"], rows)
    if summary.get("versions"):
        yield "Made with " + ", ".join(f"{k} {v}" for k, v in summary["versions"].items()) + "."


def _place(vectors: SteeringVectors) -> str:
    """Says where the vectors are added, and to which tokens."""
    behind = vectors.site == "layer_output"
    site = "added to the layer's output" if behind else f"added at the layer's `{vectors.site}`"
    return site + ("" if vectors.tokens == "all" else f", only for `{vectors.tokens}` tokens")


def _figures(summary: dict[str, Any], config: dict[str, Any], folder: Path) -> Iterator[str]:
    before, after = summary.get("accuracy_before", {}), summary.get("accuracy_after", {})
    if after:
        rows = [
            [k, _verdict(summary, k), _percent(before.get(k)), _percent(value)]
            for k, value in after.items()
        ]
        # without its settings, a run may have started from vectors of another run
        from_zero = bool(config) and _value(config, "model.steering.init_from") is None
        yield "## Results\n\nMeasured by the run itself.\n\n" + _table(
            ["benchmark", "metric", "base" if from_zero else "before", "steered"], rows
        )
    rows = [
        [row["benchmark"], row["arm"], row["metric"], _interval(row)]
        for row in _read(folder / EVALUATION / RESULTS).get("rows", [])
        if row["metric"] != "length"
    ]
    if rows:
        head = ["benchmark", "arm", "metric", "value with 95 % interval"]
        yield "## Evaluation\n\nBy `steer-lightning evaluate`.\n\n" + _table(head, rows)


def _results(summary: dict[str, Any]) -> list[EvalResult] | None:
    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type=_verdict(summary, name),
            metric_value=value,
        )
        for name, value in summary.get("accuracy_after", {}).items()
    ]
    return found or None


def _verdict(summary: dict[str, Any], benchmark: str) -> str:
    """Returns the name of a benchmark's mean verdict; older summaries do not have it."""
    return str(summary.get("verdicts", {}).get(benchmark, "accuracy"))


def _datasets(config: dict[str, Any]) -> list[str] | None:
    train = (config.get("data") or {}).get("train") or {}
    options = train.get("init_args") or {}
    if options.get("path"):
        return None
    name = HUB_DATA.get(_short(train), options.get("hub_name"))
    return [name] if name else None


def _value(config: dict[str, Any], key: str) -> str | None:
    """Returns a setting as a cell shows it; None if it is not set.

    Settings of a plug-in are under its `init_args`, or beside its `class_path` if the YAML leaves
    `init_args` out.
    """
    found: Any = config
    for part in key.split("."):
        options = found if isinstance(found, dict) else {}
        inner = options.get("init_args")
        found = inner.get(part) if isinstance(inner, dict) and part in inner else options.get(part)
    return None if found is None else _shown(found)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if not isinstance(value, dict):
        return str(value)
    if "class_path" in value:
        options = _shown(value.get("init_args") or {})
        return f"{_short(value)}({options})"
    return ", ".join(f"{k}={_shown(v)}" for k, v in value.items() if v is not None)


def _short(plugin: dict[str, Any]) -> str:
    return str(plugin.get("class_path", "")).rpartition(".")[2]


def _link(base: str) -> str:
    if not base:
        return "an unnamed model"
    if is_hub_id(base):
        return f"[{base}](https://huggingface.co/{base})"
    return _as_code(base)


def _as_code(text: str) -> str:
    """Makes a code span of a text, which must not end it."""
    return "`" + text.replace("`", "'") + "`"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(row: dict[str, Any]) -> str:
    if row["value"] is None or row["low"] is None:
        return _percent(row["value"])
    return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Makes a text that can't leave its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _read(path: Path) -> dict[str, Any]:
    """Reads a JSON or YAML file; a missing one counts as empty."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError("run", str(path), rule=f"is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError("run", str(path), rule="is damaged: it contains no mapping")
    return found
