"""The parts of the server that need no vLLM; the whole: tests/integration/test_vllm_engine.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning.serving import rollout_server
from steer_lightning.serving.rollout_server import Vectors, installed_version, sampled, version_of
from steer_lightning.testing import byte_tokenizer


class Engine:
    """The calls of vLLM's engine that change vectors; each of its workers has some layers.

    Args:
        workers: Bytes of each worker's vectors, by layer.
    """

    def __init__(self, *workers: dict[str, bytes]) -> None:
        self.workers, self.calls = workers, list[str]()

    async def collective_rpc(self, method: str, args: Sequence[Any] = ()) -> Any:
        self.calls.append(method)
        if method == "set_vectors":
            packed, is_whole = args
            for worker in self.workers:
                worker.update({k: packed if k == "0" else b"" for k in worker if is_whole})
                worker.update({k: packed for k in worker if k == "0"})
        return list(self.workers)

    async def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return True


def test_the_version_depends_on_each_layer_and_their_order() -> None:
    vectors = {10: b"c", 2: b"b", 0: b"a"}
    assert version_of(vectors) == version_of({0: b"a", 2: b"b", 10: b"c"})
    assert version_of(vectors) != version_of({0: b"a", 2: b"c", 10: b"b"})


def test_vocabularies_differ_by_their_ids() -> None:
    tokenizer = byte_tokenizer()
    found = rollout_server.vocabulary_of(tokenizer)
    assert found == rollout_server.vocabulary_of(byte_tokenizer())
    tokenizer.add_tokens(["further"])
    assert found != rollout_server.vocabulary_of(tokenizer)


def test_vectors_change_from_one_version_to_another() -> None:
    async def play() -> None:
        engine = Engine({"0": b"a", "1": b"b"}, {"2": b"c"})
        vectors = Vectors(engine)
        await vectors.read()
        first = version_of({0: b"a", 1: b"b", 2: b"c"})
        second = version_of({0: b"x", 1: b"b", 2: b"c"})
        third = version_of({0: b"y", 1: b"", 2: b""})
        assert vectors.version == first
        assert not await vectors.change(b"x", "another", second)
        assert engine.calls == ["get_vectors"]
        assert await vectors.change(b"x", first, second)
        assert engine.calls[1:] == ["set_vectors", "reset"]  # keys of prompts are out of date
        assert await vectors.change(b"x", first, second)  # by another process of the same run
        assert len(engine.calls) == 3
        assert await vectors.change(b"y", "", third)
        assert not await vectors.change(b"z", third, "not what results")

    asyncio.run(play())


def test_vectors_count_as_changed_only_once_the_keys_of_the_former_ones_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        engine = Engine({"0": b"a"})
        vectors = Vectors(engine)
        await vectors.read()
        answers = iter([False, False, False, True])

        async def reset() -> bool:
            engine.calls.append("reset")
            return next(answers)

        engine.reset_prefix_cache = reset  # type: ignore[method-assign]
        to = version_of({0: b"x"})
        with pytest.raises(RuntimeError, match="does not reset"):
            await vectors.change(b"x", version_of({0: b"a"}), to)
        assert vectors.version == ""
        assert not await vectors.change(b"x", version_of({0: b"a"}), to)
        assert await vectors.change(b"x", "", to), "the same again, as a whole"
        assert engine.calls[-2:] == ["reset", "reset"]

    monkeypatch.setattr(rollout_server, "RESETS", 2)
    asyncio.run(play())


def test_workers_must_agree() -> None:
    async def play() -> None:
        with pytest.raises(RuntimeError, match="differ in the vector of layer 0"):
            await Vectors(Engine({"0": b"a"}, {"0": b"b"})).read()

    asyncio.run(play())


def test_vectors_stay_while_completions_are_sampled() -> None:
    async def play() -> None:
        vectors = Vectors(Engine({"0": b"a"}))
        await vectors.read()
        first, second = version_of({0: b"a"}), version_of({0: b"x"})
        async with vectors.constant(second) as is_wanted:
            assert not is_wanted
        async with vectors.constant(first) as is_wanted:
            assert is_wanted
            change = asyncio.create_task(vectors.change(b"x", first, second))
            for _ in range(10):
                await asyncio.sleep(0)
            assert vectors.version == first
            assert not change.done()
        assert await change
        assert vectors.version == second

    asyncio.run(play())


class Sampling:
    """The call of vLLM's engine that samples: a token, and then an error if there is one.

    Args:
        error: What goes wrong.
        logprobs: Log-probabilities of the token.
    """

    def __init__(self, error: Exception | None, logprobs: list[Any]) -> None:
        self.error, self.logprobs = error, logprobs

    async def generate(self, ids: Any, params: Any, name: str) -> AsyncIterator[Any]:
        reason = None if self.error else "stop"
        part = SimpleNamespace(token_ids=[3], logprobs=self.logprobs, finish_reason=reason)
        yield SimpleNamespace(outputs=[part])
        if self.error is not None:
            raise self.error


ROW = {"row": 4, "tokens": [3], "logprobs": [-0.5], "reason": "stop", "version": "v"}
ONE = [{3: SimpleNamespace(logprob=-0.5)}]


@pytest.mark.parametrize(
    ("error", "logprobs", "top_k", "expected"),
    [
        (None, ONE, 1, ROW),
        (ValueError("too long"), ONE, 1, {"refused": "ValueError: too long"}),
        (None, ONE, -5, {"refused": "ValueError: top_k is -5"}),
        (RuntimeError("vLLM has died"), ONE, 1, {"error": "RuntimeError: vLLM has died"}),
        (None, [], 1, {"error": "ValueError: zip() argument 2 is shorter than argument 1"}),
    ],
)
def test_what_vllm_refuses_is_told_from_its_failures(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    logprobs: list[Any],
    top_k: int,
    expected: dict[str, Any],
) -> None:
    def params(**given: Any) -> None:
        if given["top_k"] < 0:
            raise ValueError(f"top_k is {given['top_k']}")

    names = SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA=1), SamplingParams=params)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(sampling_params=names))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", names)
    asked = {"prompts": [[1, 2]], "rows": [(4, 0, 7)], "sampling": {"stop": [], "top_k": top_k}}

    async def play() -> list[Any]:
        engine, vectors = Sampling(error, logprobs), SimpleNamespace(version="v")
        return [message async for message in sampled(engine, vectors, asked)]  # type: ignore[arg-type]

    assert asyncio.run(play()) == [expected]


def test_no_other_server_gets_the_port_while_the_base_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doors: list[socket.socket] = []

    class Door(socket.socket):
        def __init__(self) -> None:
            super().__init__()
            doors.append(self)

    class Loading:
        from_cli_args = staticmethod(lambda args: args)

        @staticmethod
        def from_engine_args(args: Any) -> None:
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    other.bind(("127.0.0.1", doors[0].getsockname()[1]))
            raise KeyError("the end of the test")

    names = ("SOL_SOCKET", "SO_REUSEADDR")
    options = {name: getattr(socket, name) for name in names}
    monkeypatch.setattr(rollout_server, "socket", SimpleNamespace(socket=Door, **options))
    found = SimpleNamespace(AsyncEngineArgs=Loading, AsyncLLM=Loading)
    for name in ("vllm", "vllm.engine", "vllm.engine.arg_utils", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", found)
    with pytest.raises(KeyError, match="the end of the test"):
        asyncio.run(rollout_server.serve(SimpleNamespace(host="127.0.0.1", port=0), "0.32"))
    doors[0].close()


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="vLLM is not installed here"):
        installed_version()
    monkeypatch.setattr(rollout_server, "installed_version", lambda: "0.99.0")
    with pytest.raises(SystemExit, match=r"vLLM 0\.99\.0 is installed.*0\.32.*--untested-vllm"):
        rollout_server.main(["--base", "x"])


def test_it_runs_without_the_package_and_its_libraries() -> None:
    """With a Python that has the standard library alone, it gets as far as to ask for vLLM."""
    command = [sys.executable, "-I", "-S", rollout_server.__file__, "--base", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: vLLM is not installed here")
