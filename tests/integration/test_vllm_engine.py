"""Training and evaluation by `VLLMEngine`: with a stand-in server, and (slow) with vLLM itself."""

from __future__ import annotations

import csv
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
import yaml

from steer_lightning import load_vectors
from steer_lightning.callbacks.checkpoint_file import load_checkpoint
from steer_lightning.cli import main
from steer_lightning.model.policy import Policy
from steer_lightning.rollout import Sampling, VLLMEngine
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import TOKENS, VIVID, byte_tokenizer, check_engine, tiny_model
from steer_lightning.types import Problem, Prompt
from tests.rollout_stand_in import TOKEN, StandIn

ENGINE = "steer_lightning.rollout.VLLMEngine"
CORRECTED = {
    "class_path": "steer_lightning.losses.PolicyGradient",
    "init_args": {"correction": {"class_path": "steer_lightning.losses.TruncatedImportance"}},
}


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base that can learn something: whatever its vectors, a random one hardly prefers a token.

    It takes the place of the fixture of the same name in `conftest`.
    """
    folder = tmp_path_factory.mktemp("base")
    model = tiny_model("qwen2")
    model.lm_head.weight.data *= 10
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def start(tiny_base: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandIn]]:
    """Starts a stand-in."""
    monkeypatch.setenv("STEER_LIGHTNING_ROLLOUT_TOKEN", TOKEN)
    with ExitStack() as stack:
        yield lambda **facts: stack.enter_context(StandIn(tiny_base, **facts))


def by_vllm(config: dict[str, Any], *servers: StandIn, **options: Any) -> dict[str, Any]:
    """A configuration of `letters` that samples on servers, and learns something in its steps."""
    addresses = [server.address for server in servers]
    init_args = {"addresses": addresses, "start_timeout": 5, **options}
    config["model"]["engine"] = {"class_path": ENGINE, "init_args": init_args}
    config["model"]["sampling"]["group_size"] = 8
    config["model"]["optimizer"]["init_args"]["lr"] = 0.2
    config["trainer"] |= {"max_steps": 10, "callbacks": []}
    config["data"].pop("val")
    return config


def fit(config: dict[str, Any], tmp_path: Path, *words: str) -> int:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return main(["fit", "--config", str(tmp_path / "config.yaml"), *words])


def metrics(run: Path) -> dict[str, list[float]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


def test_it_trains_on_several_servers(
    config: dict[str, Any], start: Callable[..., StandIn], tmp_path: Path
) -> None:
    servers = [start(), start()]
    assert fit(by_vllm(config, *servers), tmp_path) == 0
    found = metrics(tmp_path / "runs/run-1")
    rewards = found["reward/mean"]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert max(found["mismatch/max"]) < 1e-4
    # 3 layers of 32 float32, and a header of safetensors
    assert all(384 < sent / 2 < 384 + 250 for sent in found["engine/sync_bytes"])
    for server in servers:
        versions = [request["version"] for request in server.requests]
        # the check's made-up vectors, then new ones in each step, the last of which nobody reads
        assert len(versions) == len(set(versions)) == 11
        assert server.version not in versions


def test_one_step_of_staleness_learns_as_well(
    config: dict[str, Any], start: Callable[..., StandIn], tmp_path: Path
) -> None:
    server = start()
    config["model"] |= {"loss": CORRECTED, "max_staleness": 1}
    assert fit(by_vllm(config, server), tmp_path) == 0
    found = metrics(tmp_path / "runs/run-1")
    rewards = found["reward/mean"]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    versions = [request["version"] for request in server.requests][1:]
    assert len(versions) == 10  # no batch is sampled twice, and none for a step after the last
    assert versions[0] == versions[1]  # the second batch was sampled before the first update
    assert len(set(versions)) == 9
    # importance weights have something to correct from the second step on
    assert found["mismatch/max"][0] < 1e-4 < 1e-2 < min(found["mismatch/max"][1:])


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    config: dict[str, Any], start: Callable[..., StandIn], tmp_path: Path
) -> None:
    by_vllm(config, start(), start())["trainer"]["max_steps"] = 4
    assert fit(config, tmp_path) == 0
    half = f"--trainer.default_root_dir={tmp_path / 'half'}"
    assert fit(config, tmp_path, half, "--trainer.max_steps=2") == 0
    last = tmp_path / "half/run-1/checkpoints/last.ckpt"
    assert fit(config, tmp_path, half, f"--ckpt_path={last}") == 0
    folders = [tmp_path / "runs/run-1", tmp_path / "half/run-2"]
    whole, resumed = (load_vectors(x / "steering_vectors.safetensors").vectors for x in folders)
    assert whole.any()
    assert torch.equal(whole, resumed)


def test_a_server_that_dies_leaves_a_whole_checkpoint(
    config: dict[str, Any],
    start: Callable[..., StandIn],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = start()
    server.faults.dies_in_request, server.faults.dies_after = 4, 3  # the third step's, see below
    assert fit(by_vllm(config, server), tmp_path) == 2
    assert len(server.requests) == 4  # the check's, and those of three steps
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"model.engine.addresses = '{server.address}': the rollout server is lost" in message
    assert "continue the run with the same command" in message
    assert load_checkpoint(tmp_path / "runs/run-1/checkpoints/last.ckpt")["global_step"] == 2


def test_evaluate_answers_as_with_the_trainers_own_engine(
    config: dict[str, Any], start: Callable[..., StandIn], tmp_path: Path
) -> None:
    server = start()
    by_vllm(config, server)["trainer"]["max_steps"] = 2
    assert fit(config, tmp_path) == 0
    words = ["evaluate", "--vectors", str(tmp_path / "runs/run-1"), "--sampling.temperature=0"]
    words += ["--scales=[1,4]", "--dtype=float32"]
    found = {}
    for name, engine in (("own", []), ("vllm", [f"--engine={ENGINE}"])):
        output = tmp_path / name
        if engine:
            engine.append(f"--engine.addresses=['{server.address}']")
        assert main([*words, *engine, f"--output={output}"]) == 0
        found[name] = pq.read_table(output / "completions.parquet").to_pylist()
        assert len(found[name]) == 60  # 20 problems in 3 arms
    assert found["own"] == found["vllm"]
    texts = {arm: [row["completion"] for row in found["own"] if row["arm"] == arm]
             for arm in ("base", "steered", "steered x 4")}  # fmt: skip
    assert texts["base"] != texts["steered"] != texts["steered x 4"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": {"class_path": ENGINE, "init_args": {"addresses": ["http://127.0.0.1:9"]}}},
         "no rollout server has answered there within 1 seconds"),
        ({"max_staleness": 1}, "needs a loss with a correction"),
        ({"steering": {"tokens": "prompt"}}, "must be all with VLLMEngine"),
        ({"steering": {"site": "mlp_output"}}, "must be layer_output with VLLMEngine"),
        ({"steering": {"class_path": "steer_lightning.steering.AdaptiveVectors"}},
         "can't be sent to VLLMEngine"),
        ({"exact": True}, "can't be combined with VLLMEngine"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_before_the_base_loads(
    config: dict[str, Any],
    start: Callable[..., StandIn],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.setattr("steer_lightning.model.base.FrozenBase._load_base", None)
    by_vllm(config, start())["model"] |= change
    if config["model"]["engine"]:
        config["model"]["engine"]["init_args"]["start_timeout"] = 1
    assert fit(config, tmp_path) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> str:
    """Command that starts a server by the Python of vLLM's environment."""
    vllm = os.environ.get("VLLM") or shutil.which("vllm")
    if vllm is None:
        pytest.skip("needs vLLM, see scripts/make_vllm_environment.py: its command in $VLLM")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    python = Path(vllm).parent / "python"
    words = "{server} --base {base} --dtype {dtype} --port {port} --max-model-len 256"
    return f"{python} {words} --enforce-eager --gpu-memory-utilization 0.3"


@pytest.fixture
def address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


GREEDY = Sampling(group_size=1, temperature=0.0, max_new_tokens=24)


def steered_text(policy: Policy, prompt: Prompt) -> list[int]:
    """The greedy tokens of transformers' `generate` with the policy's vectors."""
    ids = torch.tensor([prompt.token_ids])
    options = {"max_new_tokens": GREEDY.max_new_tokens, "do_sample": False}
    found = policy.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    tokens: list[int] = found[0, ids.shape[1] :].tolist()
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "qwen3_moe", "gemma2",
                                  "gemma3", "quickstart", "smollm2"])  # fmt: skip
def test_vllm_steers_as_the_trainer_does(
    name: str, command: str, address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "smollm2":
        base = str(request.getfixturevalue("smollm2"))
    else:
        base = name if name == "quickstart" else save_for_vllm(tmp_path / name, name)
    layers: Any = [1, 2] if name == "quickstart" else "all" if name == "smollm2" else [0, 2]
    policy = Policy(base, steering=SteeringVectors(layers=layers))
    policy.load()
    questions = ["59+63=?\n", "5+6=?\n", "How many legs have two horses?"]
    prompts = [
        Prompt(id=k, problem=Problem(question=text, answer=""), text=text,
               token_ids=tuple(policy.tokenizer(text)["input_ids"]))
        for k, text in enumerate(questions)
    ]  # fmt: skip
    engine = VLLMEngine([address], command)
    check_engine(engine, policy, prompts)
    policy.measure_units([prompt.token_ids for prompt in prompts])
    steering: Any = policy.steering
    texts = []
    for number, size in enumerate((0.0, 0.5, 2.0)):  # of the stream
        generator = torch.Generator().manual_seed(number)
        vectors = torch.randn(steering.vectors.shape, generator=generator)
        steering.set_vectors(size * steering.stream[:, None] * vectors)
        engine.sync(steering)
        found = engine.generate(prompts, GREEDY, seed=0, step=0)
        tokens = [
            row[mask].tolist()
            for row, mask in zip(found.completion_ids, found.completion_mask, strict=True)
        ]
        assert tokens == [steered_text(policy, prompt) for prompt in prompts]
        texts.append(found.texts)
    assert len(set(texts)) == 3


def save_for_vllm(folder: Path, name: str) -> str:
    """Saves a tiny model whose heads are of a size that vLLM has kernels for."""
    common = {**TOKENS, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
              "max_position_embeddings": 256, "initializer_range": VIVID}  # fmt: skip
    gemma = {"sliding_window": 8, "query_pre_attn_scalar": 32}
    kinds = {
        "llama": tf.LlamaConfig(**common),
        "mistral": tf.MistralConfig(**common, sliding_window=None),
        "qwen2": tf.Qwen2Config(**{k: v for k, v in common.items() if k != "head_dim"}),
        "qwen3": tf.Qwen3Config(**common),
        "qwen3_moe": tf.Qwen3MoeConfig(
            **common, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
        ),
        "gemma2": tf.Gemma2Config(**common, **gemma),
        "gemma3": tf.Gemma3TextConfig(**common, **gemma),
    }
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(kinds[name]).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("max_staleness", [0, 1])
def test_the_quickstart_learns_with_vllm(
    max_staleness: int, command: str, address: str, tmp_path: Path
) -> None:
    words = ["fit", "--config", "quickstart", f"--trainer.default_root_dir={tmp_path}"]
    words += ["--trainer.max_steps=30", "--trainer.callbacks=[]", f"--model.engine={ENGINE}"]
    words += [f"--model.engine.addresses=['{address}']", f"--model.engine.command={command}"]
    words += ["--trainer.enable_progress_bar=false"]
    correction = "steer_lightning.losses.TruncatedImportance"
    words += [f"--model.loss.correction={correction}", f"--model.max_staleness={max_staleness}"]
    assert main(words) == 0
    found = metrics(tmp_path / "run-1")
    rewards = found["reward/mean"]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    assert max(found["mismatch/max"][:1] if max_staleness else found["mismatch/max"]) < 1e-3
