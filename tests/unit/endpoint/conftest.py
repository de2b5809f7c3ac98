"""A tiny base with two files of vectors behind the API, and a real server around it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from steer_lightning import save_vectors
from steer_lightning.endpoint.app import App
from steer_lightning.endpoint.call import Api
from steer_lightning.endpoint.connection import Connection
from steer_lightning.inference.loaded_models import LoadedModels
from steer_lightning.inference.service import Service
from steer_lightning.testing import save_tiny

CHAT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message must come first') }}{% endif %}"
    "{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_tiny(tmp_path_factory.mktemp("base"), "llama")
    file = Path(folder) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": CHAT}))
    return folder


@pytest.fixture(scope="session")
def vectors(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("vectors")
    generator = torch.Generator().manual_seed(0)
    for name, size in (("one", 0.3), ("two", 0.3), ("infinite", 3e38)):
        rows = torch.randn(3, 32, generator=generator)
        path = folder / f"{name}.safetensors"
        save_vectors(rows.sign() * size if size > 1 else rows * size, path, base_model=base)
    return [str(folder / f"{name}.safetensors") for name in ("one", "two", "infinite")]


@pytest.fixture(scope="session")
def api(base: str, vectors: list[str]) -> Iterator[Api]:
    models = LoadedModels(vectors[:2], base, max_rows=4)
    service = Service(models.load(), max_requests=12)
    # its vectors are too large for the check of a server that starts
    infinite = LoadedModels(vectors[2:], base).vectors["infinite"]
    models.vectors["infinite"] = infinite
    yield Api(models, service)
    service.close()


class Running:
    """A server in a thread of its own."""

    def __init__(self, api: Api, **options: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            App(api, **options).starlette(),
            log_config=None,
            access_log=False,
            lifespan="off",
            http=Connection,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        run = self._server.run
        self._thread = threading.Thread(target=run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="session")
def running(api: Api) -> Iterator[Running]:
    found = Running(api, hosts=frozenset({"127.0.0.1", "localhost"}))
    yield found
    found.end()


@pytest.fixture(scope="session")
def with_key(api: Api) -> Iterator[Running]:
    found = Running(api, key="a-secret")
    yield found
    found.end()
