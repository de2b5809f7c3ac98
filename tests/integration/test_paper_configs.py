"""The grid of arXiv 2505.18706: its published settings, and real steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from steer_lightning.callbacks import benchmark_eval
from steer_lightning.cli import main
from steer_lightning.cli.fit import SteeringCLI
from steer_lightning.cli.shipped import configurations, with_files
from steer_lightning.data import records
from steer_lightning.optim import AdamWByKind, NormClip
from steer_lightning.rollout import Sampling
from steer_lightning.steering import FullFinetune, LoRA, SteeringVectors, load_steering
from steer_lightning.testing import byte_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/results/paper.md"
FOLDER = ROOT / "configs/paper"
KINDS = {"steering": SteeringVectors, "lora": LoRA, "full": FullFinetune}
DATA = {"gsm8k": "openai/gsm8k", "math": "DigitalLearningGmbH/MATH-lighteval"}
DATA["deepscaler"] = "agentica-org/DeepScaleR-Preview-Dataset"
BENCHMARKS = {"aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench"}
IM_END = 151645
"""Of every Qwen2.5 tokenizer, whose own EOS is <|endoftext|>, 151643."""


# ---- what is published


@dataclass(frozen=True, kw_only=True)
class Published:
    """Of one model: settings, and the shape of its architecture."""

    base: str
    steering: float
    full: float = 1e-6
    tokens: int = 4096
    chat: bool = True
    make: Callable[..., Any]
    shape: dict[str, Any]

    def rate(self, kind: str) -> float:
        return {"steering": self.steering, "lora": 1e-4, "full": self.full}[kind]


def qwen(name: str, heads: int, tied: bool, full: float = 1e-6) -> Published:
    """Heads in groups as large as the model's, but two groups alone; 8 numbers a head."""
    mathematical = "Math" in name
    shape = {
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 4096 if mathematical else 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4 if mathematical else 1e6},
    }
    return Published(
        base=f"Qwen/{name}", steering=1e-3, full=full, make=tf.Qwen2Config, shape=shape
    )


def llama(name: str, steering: float, **more: Any) -> Published:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    shape = {"num_attention_heads": 8, "tie_word_embeddings": False, "rope_parameters": rope}
    shape["max_position_embeddings"] = 131072
    base = f"meta-llama/{name}"
    return Published(base=base, steering=steering, make=tf.LlamaConfig, shape=shape, **more)


MODELS = {
    "qwen2.5-1.5b": qwen("Qwen2.5-1.5B", 12, tied=True),
    "qwen2.5-7b": qwen("Qwen2.5-7B", 14, tied=False),
    "qwen2.5-14b": qwen("Qwen2.5-14B", 10, tied=False),
    "qwen2.5-math-1.5b": qwen("Qwen2.5-Math-1.5B", 12, tied=True, full=2e-6),
    "qwen2.5-math-7b": qwen("Qwen2.5-Math-7B", 14, tied=False),
    "llama-3.1-8b": llama("Llama-3.1-8B", 3e-4, chat=False),
    "llama-3.1-8b-instruct": llama("Llama-3.1-8B-Instruct", 8e-5, tokens=8192),
}
GRID = [(model, data, kind) for model in MODELS for data in DATA for kind in KINDS]


def benchmarks_of(data: str) -> set[str]:
    return BENCHMARKS | ({data} - {"deepscaler"})  # which has no test problems


def parts(model: str, data: str, kind: str) -> list[str]:
    files = ("common", f"models/{model}", f"data/{data}", f"trained/{kind}")
    return [word for file in files for word in ("--config", f"paper/{file}")]


# ---- all 63, as the document starts them


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The words of each command of the document's loop, run by a shell."""
    folder = tmp_path_factory.mktemp("loop")
    (loop,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    stub = folder / "steer-lightning"
    stub.write_text('#!/bin/sh\necho "$@" >> "$STARTED"\n')
    stub.chmod(0o755)
    started = folder / "started"
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "STARTED": str(started)}
    subprocess.run(["sh", "-c", loop], cwd=folder, env=environment, check=True)
    return [shlex.split(line) for line in started.read_text().splitlines()]


def test_the_documents_loop_is_the_grid(documented: list[list[str]]) -> None:
    expected = [
        ["fit", *parts(*row), f"--trainer.default_root_dir=runs/paper/{'-'.join(row)}"]
        for row in GRID
    ]
    assert sorted(documented) == sorted(expected)
    known = configurations()
    named = {known[word] for words in documented for word in words if word in known}
    assert named == set(FOLDER.rglob("*.yaml"))


def test_all_have_the_published_settings(
    documented: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parser = the_parser(monkeypatch, tmp_path)
    for row in GRID:
        (words,) = (words for words in documented if words[-1].endswith("/" + "-".join(row)))
        check_settings(parser.parse_args(with_files(words)).fit, *row)
    backwards = [word for file in documented[-1][-2:0:-2] for word in ("--config", file)]
    check_settings(
        parser.parse_args(with_files(["fit", *backwards])).fit, *GRID[-1]
    )  # in any order


def the_parser(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """That of the command line, made once."""
    made: list[Any] = []
    monkeypatch.setattr(SteeringCLI, "_run_subcommand", lambda cli, name: made.append(cli.parser))
    root = f"--trainer.default_root_dir={folder}"
    assert main(["fit", "--config", str(ROOT / "configs/quickstart.yaml"), root]) == 0
    return made[0]


def check_settings(config: Any, model: str, data: str, kind: str) -> None:
    published, settings = MODELS[model], config.model
    assert settings.base == published.base
    assert settings.dtype == "bfloat16"
    steering = settings.steering
    assert steering.class_path == f"steer_lightning.steering.{KINDS[kind].__name__}"
    if kind == "steering":
        assert (steering.init_args.scale, steering.init_args.layers) == ("none", "all")
        assert (steering.init_args.site, steering.init_args.tokens) == ("layer_output", "all")
    if kind == "lora":
        assert steering.init_args.rank == 4
    optimizer = settings.optimizer
    assert optimizer.class_path == "steer_lightning.optim.AdamWByKind"
    assert optimizer.init_args.kind == KINDS[kind].__name__
    assert optimizer.init_args.rates[KINDS[kind].__name__] == published.rate(kind)
    assert optimizer.init_args.weight_decay == 0
    assert (settings.schedule.kind, settings.schedule.warmup) == ("constant", 0.03)
    assert settings.gradient_clip.class_path == "steer_lightning.optim.NormClip"
    assert settings.gradient_clip.init_args.max_norm == 2.0
    assert settings.advantage.class_path == "steer_lightning.advantages.RLOO"
    assert settings.loss.init_args.terms in (None, [])  # no KL
    assert settings.kl_in_reward is None
    assert (settings.updates.num_passes, settings.updates.num_mini_batches) == (1, 1)
    (reward,) = settings.rewards
    assert reward.reward.class_path == "steer_lightning.rewards.MathReward"
    check_texts(config, published, data)
    assert (config.trainer.max_epochs, config.trainer.max_steps) == (1, -1)
    names = [c.class_path.rpartition(".")[2] for c in config.trainer.callbacks]
    assert ("LastCheckpoint" in names) == ("VectorCheckpoint" in names) == (kind == "full")
    evals = [c.init_args for c in config.trainer.callbacks if c.class_path.endswith("Eval")]
    assert {name for found in evals for name in found.benchmarks} == benchmarks_of(data)
    assert all(found.sampling is None for found in evals)


def check_texts(config: Any, published: Published, data: str) -> None:
    """Batches, prompts and completions."""
    sampling = config.model.sampling
    assert (config.data.batch_size, sampling.group_size) == (128, 16)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1, 1, 0, 0)
    assert config.data.max_prompt_tokens + sampling.max_new_tokens == published.tokens
    assert published.tokens <= published.shape["max_position_embeddings"]
    is_qwen = published.base.startswith("Qwen")
    assert sampling.eos_token_ids == ([IM_END] if is_qwen else [])
    assert sampling.stop_strings == []
    template = "ChatTemplate" if published.chat else "PlainTemplate"
    assert config.data.template.class_path == f"steer_lightning.data.{template}"
    source = {"gsm8k": "GSM8K", "math": "Math", "deepscaler": "DeepScaleR"}[data]
    assert config.data.train.class_path == f"steer_lightning.data.{source}"
    assert config.data.train.init_args.limit is None
    # a row of the longest length fits one pass and the engine
    assert config.model.tokens_per_micro_batch >= published.tokens
    assert config.model.engine.init_args.max_tokens_in_flight >= published.tokens


@pytest.mark.parametrize("left_out", ["common", "models", "data", "trained"])
def test_no_part_can_be_forgotten(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = parts("qwen2.5-math-1.5b", "gsm8k", "full")
    keep = [w for w in words[1::2] if left_out not in w]
    assert main(["fit", *(x for word in keep for x in ("--config", word))]) == 2
    key = {
        "common": "model.optimizer.init_args.weight_decay",
        "models": "model.optimizer.init_args.rates",
        "data": "data.train",
        "trained": "model.optimizer.init_args.kind",
    }[left_out]
    assert f"{key} = None: must be set" in capsys.readouterr().err


# ---- real steps


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERS = [f"{number} \\boxed{{{number % 2}}}" for number in range(300)]
"""More than half of the tokens, so that a random model answers, half of the time rightly."""


def save_shrunk(published: Published, folder: Path) -> str:
    """A random model of the architecture with few numbers, in bfloat16, and a byte tokenizer."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(ANSWERS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT if published.chat else None
    heads = published.shape["num_attention_heads"]
    config = published.make(
        vocab_size=len(tokenizer),
        hidden_size=8 * heads,
        intermediate_size=16 * heads,
        num_hidden_layers=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
        **published.shape,
    )
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    biases = [weight for name, weight in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == (6 if published.make is tf.Qwen2Config else 0)  # of queries, keys, values
    for bias in biases:
        torch.nn.init.normal_(bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def local_rows(name: str, *, config: str | None, split: str, revision: str | None = None) -> Any:
    """Four problems in the hub's columns of any data set of the grid, from a file."""
    path = Path("rows.jsonl")
    gold = "#### {}" if name == "openai/gsm8k" else "{}"
    rows = []
    for number in range(4 if name in DATA.values() and split == "train" else 1):
        question, answer = f"what is {number} mod 2?", gold.format(number % 2)
        row = dict.fromkeys(("question", "problem", "Problem"), question)
        row |= dict.fromkeys(("answer", "Answer"), answer)
        rows.append({**row, "solution": f"it is \\boxed{{{number % 2}}}"})
    path.write_text("\n".join(map(json.dumps, rows)))
    return records.read_file(path)


COVERING = {
    ("qwen2.5-1.5b", "gsm8k", "steering"),
    ("qwen2.5-math-7b", "deepscaler", "lora"),
    ("llama-3.1-8b", "math", "full"),
    ("llama-3.1-8b-instruct", "deepscaler", "steering"),
}
"""Each family, data set and kind; the others are slow tests."""


def covering() -> list[Any]:
    return [
        pytest.param(*row, marks=[] if row in COVERING else pytest.mark.slow, id="-".join(row))
        for row in GRID
    ]


@pytest.mark.parametrize(("model", "data", "kind"), covering())
def test_a_step_is_the_published_one(
    model: str, data: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = MODELS[model]
    base = save_shrunk(published, tmp_path / "base")
    monkeypatch.setattr(records, "read_hub", local_rows)
    asked = benchmark_samplings(monkeypatch)
    done = run_step(parts(model, data, kind), base, monkeypatch, tmp_path)
    module, run = done.model, next((tmp_path / "runs").iterdir())
    rate, clip = published.rate(kind), module.gradient_clip
    check_rate(module, rate)
    assert isinstance(clip, NormClip)
    assert clip.max_norm == 2.0
    # Adam's first step moves a number by the rate, whatever its gradient
    result = load_steering(run / module.policy.steering.file_name)
    moved = max(p.abs().max().item() for p in started_at_zero(result))
    assert moved == pytest.approx(rate, rel=1e-3)
    assert module.last_step.update.learning_rate == rate
    check_base(module, base)
    (prompt, *_) = module.trainer.datamodule.prompts["train"]
    asks = "put your final answer within \\boxed{}"
    if published.chat:
        assert re.fullmatch(
            rf"<\|im_start\|>system\n.*{re.escape(asks)}\.<\|im_end\|>\n<\|im_start\|>user\n"
            rf"what is \d mod 2\?<\|im_end\|>\n<\|im_start\|>assistant\n",
            prompt.text,
        )
    else:
        assert re.fullmatch(
            rf"User: what is \d mod 2\?\n.*{re.escape(asks)}\.\n\nAssistant:", prompt.text
        )
    same = replace(module.sampling, group_size=1)
    once = [replace(same, group_size=size) for size in (32, 32, 32, 1, 1, 1)]
    assert asked == 2 * (once + [same] * (data != "deepscaler"))  # before and after
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["accuracy_after"]) == benchmarks_of(data)


def benchmark_samplings(monkeypatch: pytest.MonkeyPatch) -> list[Sampling]:
    """A list that gets how each batch of benchmark problems is answered."""
    asked: list[Sampling] = []
    evaluate = benchmark_eval.evaluate_batch

    def note(*words: Any) -> None:
        asked.append(words[3])
        evaluate(*words)

    monkeypatch.setattr(benchmark_eval, "evaluate_batch", note)
    return asked


def run_step(
    words: Sequence[str], base: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> SteeringCLI:
    """Runs the real command on four problems, one batch of an epoch."""
    made: list[SteeringCLI] = []
    start = SteeringCLI._run_subcommand

    def run(cli: SteeringCLI, name: str) -> None:
        made.append(cli)
        start(cli, name)

    monkeypatch.setattr(SteeringCLI, "_run_subcommand", run)
    monkeypatch.chdir(folder)
    cut = ["--data.batch_size=4", "--model.sampling.group_size=4"]
    cut += ["--model.sampling.max_new_tokens=4", "--trainer.enable_progress_bar=false"]
    here = [f"--model.base={base}", "--trainer.accelerator=cpu", "--trainer.default_root_dir=runs"]
    assert main(["fit", *words, *cut, *here]) == 0
    assert made[0].trainer.global_step == 1
    return made[0]


def started_at_zero(result: Any) -> list[torch.Tensor]:
    if isinstance(result, SteeringVectors):
        return [result.vectors]
    return list(result.up if isinstance(result, LoRA) else result.changes)


def check_rate(module: Any, rate: float) -> None:
    """It rises over 3 % of DeepScaleR's 314 steps and stays."""
    optimizer = module.optimizer_factory([torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, AdamWByKind)
    assert optimizer.defaults["weight_decay"] == 0
    scheduler = module.schedule.build(optimizer, 314)
    rates = []
    for _ in range(314):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:9] == pytest.approx([rate * (step + 1) / 9 for step in range(9)])
    assert set(rates[8:]) == {rate}


def check_base(module: Any, folder: str) -> None:
    """All its weights are those of its folder, in bfloat16."""
    saved = tf.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    found = {
        module.policy.steering.base_name(name): weight
        for name, weight in module.policy.model.state_dict().items()
    }
    found.pop(None, None)
    assert found.keys() == saved.keys()
    for name, weight in saved.items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(found[name], weight), name
