"""Push and pull, against a server that stands in for the hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from steer_lightning import ConfigError, from_hub, push_to_hub
from steer_lightning.results.model_card import model_card

ROOT = Path(__file__).parents[3]


def test_a_damaged_run_is_refused(run: Path) -> None:
    (run / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"summary\.json.*is damaged"):
        push_to_hub(run, "user/name")
    (run / "summary.json").write_text("[]")
    with pytest.raises(ConfigError, match="contains no mapping"):
        push_to_hub(run, "user/name")
    with pytest.raises(ConfigError, match=r"is not the folder of a run: it has no steering_"):
        push_to_hub(run.parent, "user/name")


def test_without_the_hub_the_message_says_so(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"repo_id = 'user/name': the hub can't be used"):
        from_hub("user/name")  # HF_HUB_OFFLINE is set
    with pytest.raises(ConfigError, match="to = 'user/name': the hub can't be used"):
        push_to_hub(run, "user/name")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files and a download need."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        if self.path.startswith("/api/repos/create"):
            return self.answer({"url": f"http://{self.headers['Host']}/user/name"})
        if self.path.startswith("/api/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": modes})
        assert self.path == "/api/models/user/name/commit/main"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://{self.headers['Host']}/user/name/commit/{'0' * 40}"
        commit = {"commitOid": "0" * 40, "commitUrl": url}
        return self.answer({**commit, "success": True})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/resolve/main/")[2]
        if name in self.files:
            return self.answer(self.files[name])
        if self.path.startswith("/api/models/user/name"):
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer({"id": "user/name", "sha": "0" * 40, "siblings": siblings})
        headers = {"X-Error-Code": "EntryNotFound" if self.files else "RepoNotFound"}
        return self.answer({"error": "not found"}, 404, headers)

    def answer(self, what: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files.clear()
    Hub.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_vectors_go_to_the_hub_and_come_back(hub: str, run: Path, tmp_path: Path) -> None:
    script = """
import sys, torch
from steer_lightning import from_hub
from steer_lightning.cli import main

run = sys.argv[1]
assert main(["vectors", "push", run, "--to", "user/name", "--private"]) == 0
found = from_hub("user/name")
assert torch.equal(found.vectors, torch.ones(28, 1536)), found
assert found.metadata["step"] == "315"
assert main(["vectors", "push", run, "--to", "user/name"]) == 2
assert main(["vectors", "push", run, "--to", "user/name", "--overwrite"]) == 0
"""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{hub}/user/name/commit/{'0' * 40}" in done.stdout
    assert "to = 'user/name': already contains vectors" in done.stderr
    names = {"README.md", "config.yaml", "steering_vectors.safetensors", "summary.json"}
    assert set(Hub.files) == names
    vectors = (run / "steering_vectors.safetensors").read_bytes()
    assert Hub.files["steering_vectors.safetensors"] == vectors
    assert Hub.files["README.md"].decode() == model_card(run, "user/name").content
