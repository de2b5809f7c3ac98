"""What the page's server refuses: other names, pages of other sites, files of other machines."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from steer_lightning.play.guard import Guard


def client(hosts: frozenset[str] | None) -> TestClient:
    def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("fine")

    routes = [Route("/{path:path}", answer, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)])
    return TestClient(app, base_url="http://localhost:7860")


@pytest.mark.parametrize(
    ("path", "headers", "told"),
    [
        ("/", {}, "fine"),
        ("/", {"origin": "http://localhost:7860"}, "fine"),
        ("/", {"host": "127.0.0.1:7860"}, "fine"),
        ("/gradio_api/file=/tmp/x.safetensors", {}, "fine"),
        ("/", {"host": "evil.example:7860"}, "not addressed by that name"),
        ("/", {"host": ""}, "not addressed by that name"),
        ("/", {"host": "[::1"}, "no valid server"),
        ("/upload", {"origin": "http://evil.example"}, "pages of other sites"),
        ("/upload", {"origin": "http://localhost:1"}, "pages of other sites"),
        ("/upload", {"origin": "null"}, "pages of other sites"),
        ("/gradio_api/file=https://example.org/x", {}, "files of other machines"),
        ("/gradio_api/file=http%3A%2F%2Fexample.org/x", {}, "files of other machines"),
    ],
)
def test_requests_of_others_are_refused(path: str, headers: dict[str, str], told: str) -> None:
    found = client(frozenset({"localhost", "127.0.0.1"})).get(path, headers=headers)
    assert told in found.text
    assert found.status_code == (200 if told == "fine" else 403)


def test_a_public_page_has_any_name_but_no_foreign_pages() -> None:
    public = client(None)
    assert public.get("/", headers={"host": "x.gradio.live"}).text == "fine"
    headers = {"host": "x.gradio.live", "origin": "https://evil.example"}
    assert public.get("/", headers=headers).status_code == 403
