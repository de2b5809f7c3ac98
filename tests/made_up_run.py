"""Folders of runs that never were, in the files that real ones leave."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

PROMPT = "What is {step}+{b}?"
COMPLETION = "So \\boxed{{n}} of step {step}"


def write_metrics(folder: Path, steps: Sequence[int], **more: Callable[[int], float]) -> None:
    """`metrics.csv`: a line a step, and a benchmark before the first one and after each 10th."""
    metrics: dict[str, Callable[[int], float]] = {
        "reward/mean": lambda step: 1 - math.exp(-step / 20),
        "reward/no_signal_share": lambda step: 0.25,
        "completion/length_mean": lambda step: 20 + step % 7,
        "completion/cut_off_share": lambda step: 0.0,
        "vectors/norm_mean": lambda step: step**0.5,
        "speed/step_seconds": lambda step: 3.0,
        **more,
    }
    measured = ("accuracy", "accuracy_low", "accuracy_high", "completion_length")
    names = ["step", *metrics, *(f"benchmark/sums/{name}" for name in measured)]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for step in (0, *steps) if steps[0] == 1 else steps:
            if step:
                writer.writerow({"step": step, **{k: f(step) for k, f in metrics.items()}})
            if step % 10 == 0:
                values = (0.2 + 0.5 * step / steps[-1], 0.15, 0.9, 21.0)
                row = {f"benchmark/sums/{k}": v for k, v in zip(measured, values, strict=True)}
                writer.writerow({"step": step, **row})


def write_arms(folder: Path) -> None:
    """Adds two arms of the benchmark to `metrics.csv`, at the first and the last step."""
    path = folder / "metrics.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for step, change in ((0, 0.0), (40, -0.5)):
        found: dict[str, Any] = {"step": step}
        for name, factor in (("base", 1.0), ("x0.5", 0.6)):
            of_arm = {
                **{"accuracy": (0.7 if step else 0.2) + factor * change, "accuracy_low": 0.1},
                **{"accuracy_high": 0.9, "difference": factor * change},
                **{"difference_low": factor * change - 0.1 if step else 0.0},
                **{"difference_high": factor * change + 0.1, "completion_length": 13.0},
                **{"cut_off_share": 0.25, "num_unscored": 0.0},
            }
            numbers = {key: round(value, 6) for key, value in of_arm.items()}
            found |= {f"benchmark/sums/arms/{name}/{key}": v for key, v in numbers.items()}
        rows.append(found)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def rollouts(step: int, prompts: int, group: int, text: str, prompt: str) -> pa.Table:
    """Rows of a step, with the columns that `RolloutTable` writes; sample 0 alone is right."""
    rows = [(b, n) for b in range(prompts) for n in range(group)]
    return pa.table(
        {
            "step": pa.array([step] * len(rows), pa.int64()),
            "prompt_id": pa.array([b for b, _ in rows], pa.int64()),
            "sample": pa.array([n for _, n in rows], pa.int64()),
            "prompt": [prompt.replace("{step}", str(step)).replace("{b}", str(b)) for b, _ in rows],
            "completion": [
                text.replace("{step}", str(step)).replace("{n}", str(n)) for _, n in rows
            ],
            "answer": [str(step + b) for b, _ in rows],
            "reward": pa.array([float(n == 0) for _, n in rows], pa.float64()),
            "advantage": pa.array(
                [1.0 if n == 0 else -1 / (group - 1) for _, n in rows], pa.float64()
            ),
            "num_tokens": pa.array([7] * len(rows), pa.int64()),
            "finished": pa.array([n < 3 for _, n in rows], pa.bool_()),
        }
    )


def write_rollouts(
    folder: Path,
    steps: Sequence[int],
    prompts: int = 4,
    group: int = 4,
    text: str = COMPLETION,
    prompt: str = PROMPT,
) -> None:
    """`rollouts.parquet`, a row group a step, as a run writes it at its end."""
    schema = rollouts(1, 1, 2, "", "").schema
    with pq.ParquetWriter(folder / "rollouts.parquet", schema) as writer:
        for step in steps:
            writer.write_table(rollouts(step, prompts, group, text, prompt))


def write_config(folder: Path, **settings: Any) -> None:
    """`config.yaml`."""
    model = {"base": "a/model", "sampling": {"group_size": 4, "temperature": 1.0}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, **settings}))


def write_summary(folder: Path, **more: Any) -> None:
    """`summary.json`."""
    summary = {
        "accuracy_before": {"sums": 0.2},
        "accuracy_after": {"sums": 0.7},
        "num_steps": 40,
        "seconds": 12.0,
        "tokens_per_second": 1234.5,
        "trained_parameters": 768,
        "base_model": "a/model",
        "seed": 0,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    (folder / "summary.json").write_text(json.dumps({**summary, **more}))


def write_lens(folder: Path, layers: int = 3, token: str = "tok") -> None:
    """`lens.json` and `lens.jsonl`."""
    found = [[f"{token} {k}", 9.0 - k] for k in range(5)]
    rows = [
        {
            "layer": k,
            "norm": 1.5 + k,
            "stream_rms": 2.0,
            "norm_over_stream": 0.25,
            "top": {"dot": found, "cosine": [[name, score / 10] for name, score in found]},
            "bottom": {"dot": [[name, -score] for name, score in found], "cosine": []},
        }
        for k in range(layers)
    ]
    lens = {
        **{"base_model": "a/model", "step": 40, "width": 256, "num_layers": layers},
        **{"final_norm": False, "layers": rows, "stable_rank": 1.25},
        "cosines": [[math.cos(i - j) for i in range(layers)] for j in range(layers)],
        "singular_values": [1.0 / (k + 1) for k in range(layers)],
        "first_token": {"num_prompts": 8, "kl": 0.5, "up": [[token, 0.1, 0.4]], "down": []},
    }
    (folder / "lens.json").write_text(json.dumps(lens))
    looks = [
        {
            **{"step": step, "stable_rank": 1.0 + step / 40, "layers": list(range(layers))},
            "norms": [step / 10 + k for k in range(layers)],
            "drift": [1 / step] * layers,
            "top": [[token, f"{token} {step}"]] * layers,
        }
        for step in (10, 20, 30, 40)
    ]
    (folder / "lens.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))


def write_evaluation(folder: Path, text: str = "So \\boxed{{n}}") -> None:
    """`results.json` and completions of an evaluation: 2 arms, 3 problems, 2 samples of each."""
    values = {"base": (0.25, 0.2, 0.3), "steered": (0.75, 0.7, 0.8)}
    rows = []
    for arm, (value, low, high) in values.items():
        row = {"benchmark": "sums", "arm": arm, "num_problems": 3, "num_without": 0}
        rows.append({**row, "metric": "avg@2", "value": value, "low": low, "high": high})
        rows.append({**row, "metric": "length", "value": 30.0, "low": None, "high": None})
    rows[2] |= {"difference": 0.5, "difference_low": 0.4, "difference_high": 0.6}
    (folder / "evaluation").mkdir()
    (folder / "evaluation/results.json").write_text(json.dumps({"rows": rows}))
    every = [(arm, p, n) for arm in values for p in range(3) for n in range(2)]
    table = pa.table(
        {
            "benchmark": ["sums"] * len(every),
            "arm": [arm for arm, _, _ in every],
            "problem": [p for _, p, _ in every],
            "sample": [n for _, _, n in every],
            "question": [f"problem {p}" for _, p, _ in every],
            "answer": ["1"] * len(every),
            "completion": [text.replace("{n}", str(n)) for _, _, n in every],
            "num_tokens": [5] * len(every),
            "finished": [True] * len(every),
            "verdict": [1.0 if arm == "steered" else None for arm, _, _ in every],
        }
    )
    pq.write_table(table, folder / "evaluation/completions.parquet")


def make_run(folder: Path, steps: int = 40) -> Path:
    """A finished run with all that a report can show."""
    folder.mkdir(parents=True, exist_ok=True)
    every = range(1, steps + 1)
    write_metrics(folder, every)
    write_rollouts(folder, every)
    write_config(folder)
    write_summary(folder)
    write_lens(folder)
    write_evaluation(folder)
    return folder
