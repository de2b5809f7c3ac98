"""Arms of `steer-lightning evaluate` that answer in other ways than by sampling from the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from tests.integration.test_evaluate import evaluate, figures
from tests.integration.test_evaluate import folder as folder


def test_budgets_of_thinking(folder: Path) -> None:
    """Each arm answers once more: 2 tokens, `so` and 1 token, unless it ends within 2 tokens."""
    short = {"max_thinking_tokens": 2, "answer_prefix": "so", "max_answer_tokens": 1}
    config = yaml.safe_load((folder / "e.yaml").read_text()) | {"budgets": {"short": short}}
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    done = evaluate(folder, "--vectors=v.safetensors")
    assert done.returncode == 0, done.stderr
    assert "\nsteered, short  " in done.stdout
    assert "budgets:     evaluation/budget.png" in done.stdout
    rows = pq.read_table(folder / "evaluation/completions.parquet").to_pylist()
    arms = ["base", "steered", "base, short", "steered, short"]
    assert list(dict.fromkeys(row["arm"] for row in rows)) == arms
    for arm in arms[:2]:
        free, forced = ([x for x in rows if x["arm"] == name] for name in (arm, f"{arm}, short"))
        for one, two in zip(free, forced, strict=True):
            if one["finished"] and one["num_tokens"] <= 2:
                assert (one["completion"], one["num_tokens"]) == (
                    two["completion"],
                    two["num_tokens"],
                )
            else:
                assert two["num_tokens"] == 5
                assert "so" in two["completion"]
    found = json.loads((folder / "evaluation/results.json").read_text())
    told = {"num_waits": 0, "wait": "Wait", "thinking_end": None, **short}
    assert found["budgets"] == [
        {"arm": f"{arm}, short", "without_budget": arm, **told} for arm in arms[:2]
    ]
    assert [row["arm"] for row in found["side_effects"]["rows"]] == arms[:2]


def test_refinements(folder: Path) -> None:
    """Each arm answers once more, never worse by its objective, and as it does without steps."""
    named = {"idle": {"steps": 0}, "mine": {"learning_rate": 0.1, "reward_weight": 0.5}}
    config = yaml.safe_load((folder / "e.yaml").read_text()) | {"refinements": named}
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    done = evaluate(folder, "--vectors=v.safetensors", "--neutral_text=null")
    assert done.returncode == 0, done.stderr
    assert "\nletters, refined answers and plain samples at equal cost in tokens\n" in done.stdout
    rows = pq.read_table(folder / "evaluation/completions.parquet").to_pylist()
    by_arm: dict[str, list[Any]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    for arm in ("base", "steered"):
        plain, still, own = (by_arm[name] for name in (arm, f"{arm}, idle", f"{arm}, mine"))
        assert [x["completion"] for x in still] == [x["completion"] for x in plain]
        assert {x["score"] for x in plain} == {None}
        assert all(x["score"] == x["plain_score"] for x in still)
        assert all(x["score"] >= x["plain_score"] for x in own)
        assert any(x["score"] > x["plain_score"] for x in own)
    found = json.loads((folder / "evaluation/results.json").read_text())["refinements"]
    assert [(x["arm"], x["changed"] > 0) for x in found] == [
        *(("base, idle", False), ("base, mine", True)),
        *(("steered, idle", False), ("steered, mine", True)),
    ]
    assert [x["num_plain"] for x in found[::2]] == [2, 2], "sampled, and read once more"


def test_truncated_weights(folder: Path) -> None:
    """Each arm answers once more: with the full rank as before, and without an MLP otherwise."""
    truncations = {"none": {"rank": 0, "layers": "0-2"}, "whole": {"share": 1.0}}
    config = yaml.safe_load((folder / "e.yaml").read_text()) | {"truncations": truncations}
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    done = evaluate(folder, "--vectors=v.safetensors")
    assert done.returncode == 0, done.stderr
    assert "\nsteered, none  " in done.stdout
    rows = pq.read_table(folder / "evaluation/completions.parquet").to_pylist()
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["arm"], []).append(row["completion"])
    arms = ("base", "steered")
    assert list(texts) == [*arms, *(f"{arm}, {name}" for arm in arms for name in truncations)]
    for arm in arms:
        assert texts[arm] == texts[f"{arm}, whole"]
    assert figures(folder / "evaluation")["base, whole", "avg@3"]["difference"] == 0
    effects = json.loads((folder / "evaluation/results.json").read_text())["side_effects"]["rows"]
    kl = {row["arm"]: row["kl"] for row in effects}
    assert kl["base, whole"] == 0 < kl["base, none"]
    assert kl["steered, whole"] == kl["steered"]
    config["truncations"]["none"]["rank"] = 1
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    again = evaluate(folder, "--vectors=v.safetensors")
    assert again.returncode == 2
    assert "Completions with other settings are not comparable" in again.stderr
