"""A server that speaks the protocol of `rollout_server.py`, with a tiny model and without vLLM.

It samples with transformers, in threads of the test, and can be told to misbehave.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from safetensors.torch import load
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning.serving.rollout_server import PROTOCOL, version_of, vocabulary_of

TOKEN = "a secret"


@dataclass
class Faults:
    """What a stand-in does wrong."""

    dies_after: int | None = None
    """Number of rows after which it closes the connection, and answers nobody any more."""
    dies_in_request: int | None = None
    """Number of the request in which it dies, counted from 1; None dies in any."""
    hangs_after: int | None = None
    """Number of rows after which it sends messages without progress."""
    delay: float = 0.0
    """Seconds that it takes for each row."""
    version: str | None = None
    """Version that it claims to have sampled with."""
    status: int | None = None
    """Status with which it answers requests that have the token."""
    words: str = "no"
    """What it says then."""
    ignores_vectors: bool = False
    """Whether it samples without vectors."""


class StandIn:
    """A rollout server in threads of this process.

    Args:
        folder: Folder of a tiny model.
        facts: What it says of itself otherwise than is true.

    Attributes:
        received: Number of bytes of each change of vectors.
        requests: Requests for completions.
        faults: What it does wrong; may be changed at any time.
    """

    def __init__(self, folder: str, **facts: Any) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        config = self.model.config
        self.layers = self.model.model.layers
        self.vectors = {k: torch.zeros(config.hidden_size) for k in range(len(self.layers))}
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(self._hook(number))
        self.received: list[int] = []
        self.requests: list[dict[str, Any]] = []
        self.faults = Faults()
        self.is_dead = False
        self._idle = threading.Condition()
        self._num_readers = 0
        self._computing = threading.Lock()
        self.facts = {
            "protocol": PROTOCOL,
            "vllm": "0",
            "base": folder,
            "is_folder": True,
            "revision": None,
            "dtype": "float32",
            "architecture": config.architectures[0],
            "num_layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "vocabulary": vocabulary_of(AutoTokenizer.from_pretrained(folder)),
            "max_model_len": 256,
            **facts,
        }

    def __enter__(self) -> StandIn:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(200, {**stand_in.facts, "version": stand_in.version})

            def do_PUT(self) -> None:
                stand_in.put(self)

            def do_POST(self) -> None:
                stand_in.post(self)

            def content(self) -> bytes:
                return self.rfile.read(int(self.headers["Content-Length"]))

            def _answer(self, status: int, found: Any) -> None:
                if stand_in.is_dead:
                    self.close_connection = True
                    return
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_dead = True
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def version(self) -> str:
        return version_of({k: bytes(v.numpy().tobytes()) for k, v in self.vectors.items()})

    def _hook(self, number: int) -> Any:
        def add(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return output if self.faults.ignores_vectors else output + self.vectors[number]

        return add

    def _refuses(self, asked: Any) -> bool:
        if asked.headers.get("Authorization") == f"Bearer {TOKEN}":
            if self.faults.status is None:
                return False
            asked._answer(self.faults.status, {"detail": self.faults.words})
            return True
        asked._answer(403, "no")
        return True

    def put(self, asked: Any) -> None:
        content = asked.content()
        if self._refuses(asked):
            return
        query = {k: v[0] for k, v in parse_qs(urlsplit(asked.path).query).items()}
        with self._idle:
            if self.version != query["to"]:
                self._idle.wait_for(lambda: not self._num_readers)
                if query.get("since", "") not in ("", self.version):
                    asked._answer(409, {"version": self.version})
                    return
                self.received.append(len(content))
                found = load(content)
                for k, vector in self.vectors.items():
                    if str(k) in found:
                        self.vectors[k] = found[str(k)]
                    elif not query.get("since"):
                        self.vectors[k] = torch.zeros_like(vector)
        asked._answer(200, {"version": self.version})

    def post(self, asked: Any) -> None:
        request = json.loads(asked.content())
        if self._refuses(asked):
            return
        with self._idle:
            if request["version"] != self.version:
                asked._answer(409, {"version": self.version})
                return
            self._num_readers += 1
        try:
            self._stream(asked, request)
        except OSError:
            pass
        finally:
            with self._idle:
                self._num_readers -= 1
                self._idle.notify_all()

    def _stream(self, asked: Any, request: dict[str, Any]) -> None:
        asked.close_connection = True
        if self.is_dead:
            return
        self.requests.append(request)
        asked.send_response(200)
        asked.send_header("Connection", "close")
        asked.end_headers()
        for number, row in enumerate(self._rows(request)):
            in_request = self.faults.dies_in_request in (None, len(self.requests))
            if number == self.faults.dies_after and in_request:
                self.is_dead = True
            while number == self.faults.hangs_after and not self.is_dead:
                self._say(asked, {"num_tokens": 1})
                time.sleep(0.02)
            if self.is_dead:
                return
            time.sleep(self.faults.delay)
            self._say(asked, {"num_tokens": 10 * number + 1})
            self._say(asked, {**row, "version": self.faults.version or self.version})

    def _say(self, asked: Any, message: dict[str, Any]) -> None:
        asked.wfile.write(json.dumps(message).encode() + b"\n")
        asked.wfile.flush()

    @torch.no_grad()
    def _rows(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Samples the rows of each prompt together, each from its own generator."""
        sampling = request["sampling"]
        for place, prompt in enumerate(request["prompts"]):
            rows = [row for row in request["rows"] if row[1] == place]
            sources = [torch.Generator().manual_seed(row[2]) for row in rows]
            ids = torch.tensor([prompt] * len(rows))
            logprobs = []
            for _ in range(sampling["max_tokens"]):
                with self._computing:
                    logits = self.model(ids, use_cache=False).logits[:, -1]
                logp = (logits / (sampling["temperature"] or 1)).log_softmax(-1)
                drawn = [
                    torch.multinomial(x.exp(), 1, generator=g)
                    for x, g in zip(logp, sources, strict=True)
                ]
                best = logp.argmax(-1, keepdim=True)
                tokens = torch.stack(drawn) if sampling["temperature"] else best
                logprobs.append(logp.gather(1, tokens))
                ids = torch.cat([ids, tokens], 1)
            for row, (number, _, _) in enumerate(rows):
                found = ids[row, len(prompt) :].tolist()
                ends = [k for k, token in enumerate(found) if token in sampling["stop_token_ids"]]
                end = ends[0] + 1 if ends else len(found)
                yield {
                    "row": number,
                    "tokens": found[:end],
                    "logprobs": torch.cat(logprobs, 1)[row, :end].tolist(),
                    "reason": "stop" if ends else "length",
                }
