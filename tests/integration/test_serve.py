"""`serve` as a process of its own, asked by the clients that people use."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from steer_lightning import attach, load_model, save_vectors
from steer_lightning.model.hub import resolve_base
from steer_lightning.system.run_files import CONFIG, SUMMARY
from tests.started import Started, command_line, start

SECONDS = 120
"""Longer than anything here takes."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of the quickstart whose vectors are random."""
    folder = tmp_path_factory.mktemp("work")
    generator = torch.Generator().manual_seed(1)
    path = folder / "run-1/steering_vectors.safetensors"
    save_vectors(8 * torch.randn(4, 192, generator=generator), path, base_model="quickstart")
    configs = Path(__file__).parents[2] / "configs"
    shutil.copy(configs / "quickstart.yaml", folder / "run-1" / CONFIG)
    (folder / "run-1" / SUMMARY).write_text("{}")
    return folder


class Served:
    """A server that is ready."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.vectors = folder / "run-1"
        words = ("serve", "--vectors", "run-1", "--port", "0", *words)
        self.process: Started = start(*words, folder=folder)
        deadline = time.monotonic() + SECONDS
        while "address: " not in self.process.said:
            assert self.process.poll() is None, self.process.said
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (self.url,) = re.findall(r"address: (http://\S+/v1)", self.process.said)

    @contextmanager
    def client(self, **options: Any) -> Iterator[openai.OpenAI]:
        settings = {"api_key": "none", "max_retries": 0, "timeout": SECONDS, **options}
        with openai.OpenAI(base_url=self.url, **settings) as found:
            yield found

    def end(self) -> subprocess.CompletedProcess[str]:
        self.process.send_signal(signal.SIGTERM)
        return self.process.end(SECONDS)


@pytest.fixture(scope="module")
def served(work: Path) -> Iterator[Served]:
    found = Served(work)
    yield found
    found.end()


def test_the_openai_client_reads_answers(served: Served) -> None:
    with served.client() as client:
        assert [model.id for model in client.models.list().data] == ["base", "run-1"]
        asked: dict[str, Any] = {"prompt": "59+63=?\n", "max_tokens": 64, "temperature": 0}
        texts = {}
        for model in ("base", "run-1", "run-1@0.5"):
            answer = client.completions.create(model=model, **asked)
            texts[model] = answer.choices[0].text
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == 8
        found, tokenizer = load_model("quickstart")
        ids = tokenizer(asked["prompt"], return_tensors="pt")
        for model, scale in (("base", 0.0), ("run-1", 1.0), ("run-1@0.5", 0.5)):
            with attach(found, served.vectors, scale=scale):
                expected = found.generate(**ids, max_new_tokens=64, do_sample=False)
            whole = tokenizer.decode(expected[0, ids["input_ids"].shape[1] :])
            assert texts[model] == whole.removesuffix("<eos>"), model
        assert len(set(texts.values())) > 1


def test_the_openai_client_reads_conversations_and_streams(served: Served) -> None:
    with served.client() as client:
        messages: Any = [{"role": "user", "content": "59+63"}]
        asked: dict[str, Any] = {"model": "run-1", "messages": messages, "seed": 3}
        whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
        text = whole.choices[0].message.content
        assert whole.choices[0].logprobs is not None
        told = whole.choices[0].logprobs.content
        assert told is not None
        assert len(told[0].top_logprobs) == 2
        plain = client.completions.create(model="run-1", prompt="59+63=?\n", seed=3, max_tokens=300)
        assert plain.choices[0].text == text, "the run's template renders the question"
        stream = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
        assert "".join(pieces) == text
        assert len(pieces) > 3
        assert chunks[-1].usage == whole.usage


def test_the_openai_client_raises_errors_by_their_kind(served: Served) -> None:
    with served.client() as client:
        asked: dict[str, Any] = {"model": "run-1", "prompt": "1+1=?\n", "max_tokens": 2}
        with pytest.raises(openai.NotFoundError, match="the models are base, run-1"):
            client.completions.create(**{**asked, "model": "run-2"})
        for wrong in ({"temperature": 9.0}, {"max_tokens": 9999}, {"prompt": "1" * 600}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.completions.create(**{**asked, **wrong})
            assert caught.value.param == next(iter(wrong))


def ask_until_refused(served: Served) -> None:
    """Asks again and again; the server takes a moment to notice the signal."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with served.client() as client:
            client.models.list()


def test_at_sigterm_answers_end_and_new_ones_are_refused(work: Path) -> None:
    served = Served(work)
    asked: dict[str, Any] = {"model": "base", "prompt": "1+1=?\n", "n": 8, "max_tokens": 400}
    asked |= {"temperature": 2.0, "seed": 1, "stream": True}
    with served.client() as client:
        stream = iter(client.completions.create(**asked))
        ends = [next(stream).choices[0].finish_reason]
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIConnectionError):
            ask_until_refused(served)
        ends += [chunk.choices[0].finish_reason for chunk in stream]
        assert sum(end is not None for end in ends) == 8
    done = served.process.end(SECONDS)
    assert done.returncode == -signal.SIGTERM
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_server(work: Path) -> None:
    served = Served(work)
    served.process.send_signal(signal.SIGINT)
    done = served.process.end(SECONDS)
    assert done.returncode == 130
    assert "interrupted: answers under way were completed" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_end_the_command_at_once(work: Path, served: Served, tiny_base: str) -> None:
    port = served.url.rpartition(":")[2].removesuffix("/v1")
    for words, told in (
        (["--port", port], f"port = {port}: can't be taken at 127.0.0.1"),
        (["--base", tiny_base], "does not fit"),
    ):
        done = command_line("serve", "--vectors", "run-1", *words, folder=work)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr


# ---- load


def body_of(number: int) -> dict[str, Any]:
    """A request, which differs from others in everything."""
    draw = random.Random(number)
    return {
        "model": draw.choice(["base", "run-1", "run-1@0.5", "run-1@-1", "run-1@1.5"]),
        "prompt": f"{draw.randint(1, 99)}{draw.choice('+-')}{draw.randint(1, 99)}=?\n",
        "max_tokens": draw.choice([5, 20, 64]),
        "temperature": draw.choice([0, 0.7, 1, 1.3]),
        "top_p": draw.choice([1, 1, 0.9]),
        "n": draw.choice([1, 1, 1, 2]),
        "stop": draw.choice([None, None, ["So"], ["1", "Tens"]]),
        "seed": number,
    }


def answers_of(served: Served, count: int, num_clients: int) -> dict[int, Any]:
    """Answers to many requests, which several clients send at the same time."""
    numbers, found = iter(range(count)), {}
    lock = threading.Lock()

    def ask() -> None:
        with served.client() as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                choices = client.completions.create(**body_of(number)).choices
                found[number] = [(choice.text, choice.finish_reason) for choice in choices]

    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return found


@pytest.mark.parametrize(
    ("count", "num_clients"), [(24, 8), pytest.param(1000, 32, marks=pytest.mark.slow)]
)
def test_each_answer_is_that_of_the_request_alone(
    served: Served, count: int, num_clients: int
) -> None:
    together = answers_of(served, count, num_clients)
    assert sorted(together) == list(range(count)), "none is lost"
    assert together == answers_of(served, count, 1)
    assert len(set(map(str, together.values()))) > count / 3


# ---- lm-eval

OTHER = os.environ.get("LM_EVAL_PYTHON")
"""Python of the environment of lm-eval; its requirements are not those of the package."""

TASKS = {
    "sums": """
task: sums
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}]
""",
    "talk": """
task: talk
output_type: generate_until
generation_kwargs: {until: ["Tens"], max_gen_toks: 40, temperature: 0}
doc_to_target: "{{choices[0]}}"
metric_list: [{metric: bypass}]
""",
}
SHARED = """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
doc_to_text: "TEXT"
target_delimiter: "\\n"
"""


def lm_eval(folder: Path, task: str, model: str, arguments: dict[str, Any], *words: str) -> Any:
    """Runs a task; returns its results and what was logged of each sample."""
    rows = [
        {
            "question": f"{k}+{k}",
            "choices": [f"\\boxed{{{2 * k}}}", "The answer", "Ones"],
            "label": 2,
        }
        for k in range(11, 21)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = "{{question}}" if task == "talk" else "{{question}}=?"
    shared = SHARED.replace("FILE", str(folder / "rows.jsonl")).replace("TEXT", text)
    (folder / f"{task}.yaml").write_text(TASKS[task] + shared)
    given = ",".join(f"{key}={value}" for key, value in arguments.items())
    command = [OTHER or sys.executable, "-m", "lm_eval", "--model", model, "--model_args", given]
    command += ["--tasks", task, "--include_path", str(folder), "--log_samples"]
    command += ["--output_path", str(folder / "out"), *words]
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_DATASETS_OFFLINE": "1"}
    environment["OPENAI_API_KEY"] = "none"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
    lines = samples.read_text().splitlines()
    return json.loads(results.read_text())["results"][task], list(map(json.loads, lines))


needs_lm_eval = pytest.mark.skipif(
    OTHER is None and find_spec("lm_eval") is None,
    reason='needs pip install "lm-eval[api]", in an environment named by LM_EVAL_PYTHON',
)


@pytest.mark.slow
@needs_lm_eval
@pytest.mark.parametrize("name", ["base", "run-1", "run-1@0.5"])
def test_lm_eval_finds_the_likelihoods_of_plain_passes(
    served: Served, tmp_path: Path, name: str
) -> None:
    arguments = {"model": name, "base_url": f"{served.url}/completions", "num_concurrent": 4}
    arguments |= {"tokenizer_backend": "huggingface", "tokenizer": resolve_base("quickstart")}
    results, samples = lm_eval(tmp_path, "sums", "local-completions", arguments)
    model, tokenizer = load_model("quickstart")
    scale = {"base": 0.0, "run-1": 1.0}.get(name, 0.5)
    right = 0
    for sample in samples:
        doc = sample["doc"]
        prompt = tokenizer(f"{doc['question']}=?", add_special_tokens=False)["input_ids"]
        expected = []
        for choice in doc["choices"]:
            answer = tokenizer(f"\n{choice}", add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *answer]])
            with torch.inference_mode(), attach(model, served.vectors, scale=scale):
                logprobs = model(ids).logits[0, :-1].log_softmax(-1)
            own = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
            expected.append(float(own.sum()))
        found = [float(pair[0][0]) for pair in sample["resps"]]
        assert found == pytest.approx(expected, abs=1e-3)
        right += max(range(3), key=expected.__getitem__) == doc["label"]
    assert results["acc,none"] == pytest.approx(right / len(samples))


@pytest.mark.slow
@needs_lm_eval
def test_lm_eval_talks(served: Served, tmp_path: Path) -> None:
    arguments = {"model": "base", "base_url": f"{served.url}/chat/completions"}
    words = ["--apply_chat_template"]
    _, samples = lm_eval(tmp_path, "talk", "local-chat-completions", arguments, *words)
    with served.client() as client:
        for sample in samples:
            answer = client.completions.create(
                model="base",
                prompt=f"{sample['doc']['question']}=?\n",
                max_tokens=40,
                temperature=0,
                stop=["Tens"],
            )
            assert sample["resps"][0][0] == answer.choices[0].text
