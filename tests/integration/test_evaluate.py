"""`steer-lightning evaluate`, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from steer_lightning.data import PlainTemplate, Records, make_prompts
from steer_lightning.evaluation.runner import EVALUATION_STEP
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import DecodeEngine, Sampling
from steer_lightning.steering import (
    READ,
    AdaptiveVectors,
    BitFit,
    FullFinetune,
    LoRA,
    Steering,
    SteeringVectors,
    VectorFit,
    load_steering,
    save_vectors,
)
from steer_lightning.testing import tiny_model
from tests.held import HOLDS, IS_HELD, wait
from tests.started import all_end, command_line, node, start

ROOT = Path(__file__).parents[2]
LAYERS, WIDTH = 3, 32


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path) -> Path:
    """A configuration for a tiny model, with vectors that change what it writes."""
    shutil.copytree(tiny_base, tmp_path / "base")
    torch.manual_seed(0)
    save_vectors(torch.randn(LAYERS, WIDTH) * 0.5, tmp_path / "v.safetensors", base_model="base")
    rows = [{"question": f"q{k}", "answer": "7"} for k in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "benchmarks": {
            "letters": {
                "class_path": "steer_lightning.data.Records",
                "init_args": {"path": "rows.jsonl"},
            }
        },
        "template": {
            "class_path": "steer_lightning.data.PlainTemplate",
            "init_args": {"text": "{question}:"},
        },
        "sampling": {"group_size": 3, "max_new_tokens": 5},
        "verifier": {
            "class_path": "steer_lightning.rewards.FormatReward",
            "init_args": {"pattern": "[a-m]"},
        },
        "batch_size": 4,
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def evaluate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return command_line("evaluate", "--config", "e.yaml", *words, folder=folder)


def figures(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads((path / "results.json").read_text())["rows"]
    return {(row["arm"], row["metric"]): row for row in rows}


def test_arms_side_by_side(folder: Path) -> None:
    done = evaluate(folder, "--vectors=v.safetensors", "--scales=[0, 1]", "--leave_out_layers=[1]")
    assert done.returncode == 0, done.stderr
    assert "letters (12 problems)" in done.stdout
    found = figures(folder / "evaluation")
    arms = ["base", "steered x 0", "steered", "steered without layer 1"]
    assert list(dict.fromkeys(arm for arm, _ in found)) == arms
    zero = found["steered x 0", "avg@3"]
    assert (zero["difference"], zero["difference_low"], zero["difference_high"]) == (0, 0, 0)
    rows = pq.read_table(folder / "evaluation/completions.parquet").to_pylist()
    assert len(rows) == 4 * 12 * 3
    texts = {arm: [row["completion"] for row in rows if row["arm"] == arm] for arm in arms}
    assert texts["base"] == texts["steered x 0"] != texts["steered"]
    assert texts["steered"] != texts["steered without layer 1"]
    for arm in arms:
        verdicts = [row["verdict"] for row in rows if row["arm"] == arm]
        assert found[arm, "avg@3"]["value"] == pytest.approx(sum(verdicts) / 36)
    assert (folder / "evaluation/comparison.png").stat().st_size > 5000

    again = evaluate(folder, "--vectors=v.safetensors", "--scales=[0, 1]", "--leave_out_layers=[1]")
    assert "is finished: nothing is sampled again" in again.stderr
    assert again.stdout == done.stdout


def test_the_settings_of_the_run_are_enough(folder: Path) -> None:
    given = yaml.safe_load((folder / "e.yaml").read_text())
    callback = {key: given[key] for key in ("benchmarks", "sampling", "verifier")}
    name = "steer_lightning.callbacks.BenchmarkEval"
    config = {
        "model": {"base": "base", "dtype": "float32", "sampling": {"group_size": 8}},
        "data": {"template": given["template"]},
        "trainer": {"callbacks": [{"class_path": name, "init_args": callback}]},
    }
    run = folder / "runs/run-1"
    run.mkdir(parents=True)
    (run / "metrics.csv").touch()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(folder / "v.safetensors", run / SteeringVectors.file_name)
    done = command_line("evaluate", "--vectors=runs/run-1", folder=folder)
    assert done.returncode == 0, done.stderr
    told = "from runs/run-1/config.yaml, unless given: benchmarks, sampling, verifier, template"
    assert told in done.stdout
    spelled_out = evaluate(folder, "--vectors=v.safetensors", "--batch_size=64")
    assert spelled_out.returncode == 0, spelled_out.stderr
    found = [pq.read_table(x / "evaluation/completions.parquet") for x in (run, folder)]
    assert found[0].equals(found[1])
    assert found[0].num_rows == 2 * 12 * 3
    words = ["--vectors=runs/run-1", "--sampling.group_size=2", "--output=twice"]
    assert command_line("evaluate", *words, folder=folder).returncode == 0
    assert pq.read_table(folder / "twice/completions.parquet").num_rows == 2 * 12 * 2


KINDS: dict[str, Steering] = {
    "some tokens": SteeringVectors([0, 2], site="mlp_output", tokens="completion"),
    "adaptive": AdaptiveVectors(),
    "lora": LoRA(rank=2),
    "side network": READ(rank=2),
    "full": FullFinetune(),
    "biases": BitFit(),
    "vectorfit": VectorFit(),
}


def completions(folder: Path, path: Path, scales: tuple[float, ...]) -> list[list[str]]:
    """What a model of its own writes with a result at each scale, as `e.yaml` asks for it."""
    policy = Policy(str(folder / "base"), steering=load_steering(path))
    policy.load()
    engine = DecodeEngine()
    engine.setup(policy)
    source, template = Records(str(folder / "rows.jsonl")), PlainTemplate("{question}:")
    prompts = make_prompts(source, template, policy.tokenizer, 100)
    sampling = Sampling(group_size=3, max_new_tokens=5)
    found = []
    for scale in scales:
        with policy.at_scale(scale):
            written = engine.generate(prompts, sampling, seed=0, step=EVALUATION_STEP)
        found.append(list(written.texts))
    return found


def test_results_of_every_kind_are_arms_of_one_model(folder: Path) -> None:
    """Each writes what it writes with a model of its own, whatever was there before it."""
    paths = {"v": folder / "v.safetensors"}
    for name, steering in KINDS.items():
        steering.build(tiny_model("qwen2"))
        for parameter in steering.parameters():
            parameter.data.normal_(std=0.1)
        paths[name] = folder / name / steering.file_name
        steering.save(paths[name], base_model="base")
    config = yaml.safe_load((folder / "e.yaml").read_text())
    config["benchmarks"]["again"] = config["benchmarks"]["letters"]  # after all other arms
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    words = ["--vectors", "v.safetensors", *KINDS, "--scales=[1, 0.5, 0]"]
    words += ["--output=all", "--batch_size=12"]
    done = evaluate(folder, *words)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(folder / "all/completions.parquet").to_pylist()
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["benchmark"], row["arm"]), []).append(row["completion"])
    base = found["letters", "base"]
    for name, path in paths.items():
        alone = completions(folder, path, (1.0, 0.5, 0.0))
        assert alone[2] == base != alone[0] != alone[1], name
        for benchmark in ("letters", "again"):
            assert found[benchmark, "base"] == base
            arms = [found[benchmark, arm] for arm in (name, f"{name} x 0.5", f"{name} x 0")]
            assert arms == alone, (benchmark, name)

    lora = load_steering(paths["lora"])
    next(lora.parameters()).data.neg_()
    lora.save(paths["lora"], base_model="base")
    again = evaluate(folder, *words)
    assert again.returncode == 2
    assert "arms.lora = " in again.stderr


def test_an_interrupted_evaluation_goes_on(folder: Path) -> None:
    config = yaml.safe_load((folder / "e.yaml").read_text())
    config["verifier"] = {"class_path": "tests.held.HeldVerifier"}
    (folder / "e.yaml").write_text(yaml.safe_dump(config))
    words = ["--vectors=v.safetensors", "--batch_size=1", "--output"]
    whole = evaluate(folder, *words, "whole")
    assert whole.returncode == 0, whole.stderr
    words = [*words, "cut"]
    (folder / HOLDS).touch()
    cut = start("evaluate", "--config", "e.yaml", *words, folder=folder)
    wait(cut.poll, (folder / IS_HELD).exists)
    cut.send_signal(signal.SIGINT)
    done = cut.end()
    assert done.returncode == 130, done.stderr
    assert "the same command continues from cut" in done.stderr
    assert len(list((folder / "cut/parts").glob("[!.]*.parquet"))) == 2
    (folder / HOLDS).unlink()
    done = evaluate(folder, *words)
    assert done.returncode == 0, done.stderr
    for name in ("results.json", "completions.parquet"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_completions_are_verified_anew_without_the_model(folder: Path) -> None:
    done = evaluate(folder, "--vectors=v.safetensors")
    assert done.returncode == 0, done.stderr
    before = figures(folder / "evaluation")
    stricter = "--verifier.init_args.pattern=(a|b|c)"
    done = evaluate(folder, "--vectors=v.safetensors", stricter)
    assert done.returncode == 2, "verdicts of another verifier are not shown as this one's"
    assert "verifier.pattern = " in done.stderr
    assert "--rescore" in done.stderr
    shutil.move(folder / "base", folder / "away")
    done = evaluate(folder, "--vectors=v.safetensors", "--rescore", stricter)
    assert done.returncode == 0, done.stderr
    shutil.move(folder / "away", folder / "base")
    done = evaluate(folder, "--vectors=v.safetensors", stricter)
    assert "is finished: nothing is sampled again" in done.stderr
    after = figures(folder / "evaluation")
    assert after["base", "avg@3"]["value"] < before["base", "avg@3"]["value"]
    rows = pq.read_table(folder / "evaluation/completions.parquet").to_pylist()
    assert all(row["verdict"] == bool(set(row["completion"]) & set("abc")) for row in rows)


@pytest.mark.multi_process
@pytest.mark.slow
def test_two_processes_find_the_same(folder: Path) -> None:
    one = evaluate(folder, "--vectors=v.safetensors", "--output=one")
    assert one.returncode == 0, one.stderr
    words = ("evaluate", "--config", "e.yaml", "--vectors=v.safetensors", "--output=two")
    two = all_end(node(*words, folder=folder, processes=2))
    assert [done.returncode for done in two] == [0, 0], two
    assert [done.stdout.count("letters (12 problems)") for done in two] == [1, 0]
    assert figures(folder / "two") == figures(folder / "one")
    anew = ("--rescore", "--verifier.init_args.pattern=(a|b|c)")
    one = evaluate(folder, "--vectors=v.safetensors", "--output=one", *anew)
    two = all_end(node(*words, *anew, folder=folder, processes=2))
    assert [done.returncode for done in (one, *two)] == [0, 0, 0], (one, two)
    every = [pq.read_table(folder / name / "completions.parquet") for name in ("one", "two")]
    assert every[0].equals(every[1])
    assert figures(folder / "two") == figures(folder / "one")


SLOW_TO_OPEN = """
import sys, time
from steer_lightning.cli import main
from steer_lightning.evaluation.store import Store
open_at_once = Store.open
def open_later(self, *words):
    time.sleep(5)
    open_at_once(self, *words)
Store.open = open_later
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.multi_process
def test_no_process_goes_on_with_what_the_first_one_overwrites(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW_TO_OPEN)
    assert evaluate(folder, "--vectors=v.safetensors").returncode == 0
    words = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "slow.py"]
    words += ["evaluate", "--config=e.yaml", "--vectors=v.safetensors", "--seed=1", "--overwrite"]
    done = subprocess.run(
        [sys.executable, *words],
        **{"cwd": folder, "capture_output": True, "text": True, "check": False, "timeout": 100},
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "is finished" not in done.stderr
    assert json.loads((folder / "evaluation/settings.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vectors=no.safetensors",), "no.safetensors"),
        (("--vectors=v.safetensors", "--base=quickstart"), "does not fit quickstart"),
        (("--vectors=base",), "contains no steering_vectors.safetensors or adaptive_vectors"),
        ((), "base = None: must be given"),
        (("--vectors=v.safetensors", "--trust_remote_code=true"), "whose code runs"),
        (("--vectors=v.safetensors", "--scales=[1, 1]"), "names a scale twice"),
        (("--vectors=v.safetensors", "--pass_at=[0]"), "pass_at = [0]: must contain numbers"),
        (("--vectors=v.safetensors", "--batch_size=0"), "batch_size = 0: must be at least 1"),
        (("--vectors=v.safetensors", "--output=."), "exists and holds no evaluation"),
        (("--vectors=v.safetensors", "--rescore"), "there is no such file"),
        (("--vectors=v.safetensors", "--sampling.max_new_tokens=100000"), "positions"),
        (("--vecters=v.safetensors",), "Did you mean vectors"),
        (("--vectors=v.safetensors", "--max_prompt_tokens=1"), "error: max_prompt_tokens = 1: all"),
        (("--vectors=v.safetensors", "--sampling.group_size=0"), "error: sampling.group_size = 0"),
        (("--base=/no",), "error: base = '/no': there is no such folder"),
        (
            ("--vectors=v.safetensors", "--template.text=x"),
            "error: template.init_args.text = 'x': must contain {question}",
        ),
        (
            ("--vectors=v.safetensors", "--template=null"),
            "Set template.class_path: steer_lightning.data.PlainTemplate",
        ),
        (
            ("--vectors=v.safetensors", "--benchmarks.letters.answer_column=gold"),
            "error: benchmarks.letters.init_args.answer_column = 'gold': rows.jsonl has no column",
        ),
        (
            ("--vectors=v.safetensors", "--benchmarks.letters.path=no.jsonl"),
            "error: benchmarks.letters.init_args.path = 'no.jsonl': there is no such file",
        ),
    ],
)
def test_mistakes_are_told_in_one_message(
    folder: Path, words: tuple[str, ...], message: str
) -> None:
    done = evaluate(folder, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "data." not in done.stderr.replace("steer_lightning.data.", "")
    assert "Loading weights" not in done.stderr


def test_a_benchmark_without_answers_is_refused(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"question": "q", "answer": null}')
    done = evaluate(folder, "--vectors=v.safetensors")
    assert done.returncode == 2
    assert "no row has both a question and an answer" in done.stderr
