"""The server that samples completions with vLLM, in an environment of vLLM's own.

    python rollout_server.py --base Qwen/Qwen2.5-1.5B --dtype bfloat16 --port 8765

The same is `python -m steer_lightning.serving.rollout_server`, where the package is installed
without its dependencies. It needs what vLLM brings, and no other part of this package. All other
options are vLLM's own, such as `--tensor-parallel-size`. Prompts arrive as token ids, and
completions leave as token ids, each with the version of the vectors that it was sampled with.
Tested with vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

PROTOCOL = 1
"""Version of the messages between trainer and server."""

TOKEN = "STEER_LIGHTNING_ROLLOUT_TOKEN"
"""Environment variable with the secret that trainer and server share."""

TESTED = ("0.32",)
"""Versions of vLLM with which the server has been tested."""

STEERABLE = (
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    *("Qwen3MoeForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
)
"""Architectures whose decoder layers can be steered, see `steered_worker`."""

BEAT = 2.0
"""Seconds between two messages about progress, which a server that hangs does not make."""

GRACE = 5
"""Seconds that completions have to end when the server is asked to end."""

RESETS = 50
"""Number of attempts, a tenth of a second apart, to reset vLLM's prefix cache."""

STREAM_INTERVAL = 32
"""Number of tokens of a completion after which vLLM reports it; reports of each would cost time."""


def version_of(vectors: Mapping[int, bytes]) -> str:
    """Returns the version of vectors: a hash of the bytes of all layers, in order."""
    return hashlib.sha256(b"".join(vectors[k] for k in sorted(vectors))).hexdigest()[:16]


def vocabulary_of(tokenizer: Any) -> str:
    """Returns a hash of the tokens of a tokenizer with their ids."""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]


class Vectors:
    """The vectors that the engine adds, which change only while no completion is sampled.

    Args:
        engine: vLLM's engine, with the workers of `steered_worker`.

    Attributes:
        version: Version of the vectors, computed from the bytes in the memory of the model.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._num_readers = 0
        self._changed = asyncio.Condition()
        self.version = ""

    async def read(self) -> None:
        """Finds out the version at the start."""
        self._note(await self._engine.collective_rpc("get_vectors"))

    async def change(self, packed: bytes, since: str, to: str) -> bool:
        """Changes vectors, after the completions of the present ones have ended.

        Args:
            packed: Vectors of some layers, see `SteeredWorker.set_vectors`.
            since: Version that they change; empty if they are whole, whatever came before.
            to: Version that the change leads to.

        Returns:
            Whether the vectors now have that version.
        """
        async with self._changed:
            if self.version == to:
                return True
            await self._changed.wait_for(lambda: not self._num_readers)
            if since not in ("", self.version):
                return False
            self.version = ""  # until all of it has been done
            found = await self._engine.collective_rpc("set_vectors", args=(packed, not since))
            await self._forget_prompts()
            self._note(found)
            return self.version == to

    async def _forget_prompts(self) -> None:
        """Resets vLLM's cache of keys and values, which belong to the former vectors."""
        for _ in range(RESETS):
            if await self._engine.reset_prefix_cache():
                return
            await asyncio.sleep(0.1)  # it has not released the last completions yet
        raise RuntimeError("vLLM does not reset its prefix cache")

    @asynccontextmanager
    async def constant(self, wanted: str) -> AsyncIterator[bool]:
        """Keeps the vectors as they are in the block; yields whether their version is the wanted.

        Args:
            wanted: Version with which the completions of the block are to be sampled.
        """
        async with self._changed:
            self._num_readers += 1
        try:
            yield self.version == wanted
        finally:
            async with self._changed:
                self._num_readers -= 1
                self._changed.notify_all()

    def _note(self, of_workers: Sequence[Mapping[str, bytes]]) -> None:
        found: dict[int, bytes] = {}
        for vectors in of_workers:
            for index, content in vectors.items():
                if found.setdefault(int(index), content) != content:
                    raise RuntimeError(f"the workers of vLLM differ in the vector of layer {index}")
        self.version = version_of(found)


class Refused(Exception):
    """Says what vLLM finds wrong with a request; it could not sample it at another time, either."""


class _Rows:
    """The rows of a request while vLLM samples them; its arguments are those of `sampled`.

    Attributes:
        messages: A message for each row that has ended.
        num_tokens: Number of tokens that have been sampled.
    """

    def __init__(self, engine: Any, vectors: Vectors, request: Mapping[str, Any]) -> None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.num_tokens = 0
        self._engine, self._vectors, self._prompts = engine, vectors, request["prompts"]
        self._params = partial(
            SamplingParams,
            **request["sampling"],
            output_kind=RequestOutputKind.DELTA,
            stream_interval=STREAM_INTERVAL,
            logprobs=0,  # of the sampled token alone
            ignore_eos=True,  # the trainer names all tokens that end a completion
            detokenize=bool(request["sampling"]["stop"]),
            skip_special_tokens=False,
        )

    async def sample(self, row: int, prompt: int, seed: int) -> None:
        """Samples a row to its end."""
        tokens, logprobs, reason = list[int](), list[float](), None
        async for new in self._parts(row, prompt, seed):
            tokens += new.token_ids
            pairs = zip(new.token_ids, new.logprobs or (), strict=True)
            logprobs += [known[token].logprob for token, known in pairs]
            self.num_tokens += len(new.token_ids)
            reason = new.finish_reason
        if reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM has ended a completion with the reason {reason}")
        found = {"row": row, "tokens": tokens, "logprobs": logprobs, "reason": reason}
        self.messages.put_nowait({**found, "version": self._vectors.version})

    async def _parts(self, row: int, prompt: int, seed: int) -> AsyncIterator[Any]:
        ids, name = {"prompt_token_ids": self._prompts[prompt]}, f"{row}-{secrets.token_hex(8)}"
        try:
            async for part in self._engine.generate(ids, self._params(seed=seed), name):
                yield part.outputs[0]
        except (TypeError, ValueError) as error:  # vLLM's failures have other classes
            raise Refused(f"{type(error).__name__}: {error}") from error


async def sampled(
    engine: Any, vectors: Vectors, request: Mapping[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    """Samples completions.

    Args:
        engine: vLLM's engine.
        vectors: Vectors of the engine.
        request: `prompts`, `rows` (number of the row, of its prompt, and seed), and `sampling`.

    Yields:
        A message for each completion as soon as it has ended, and in between messages with the
        number of tokens so far. The last one has `refused` if vLLM does not take the request, or
        `error` if it has failed.
    """
    rows = _Rows(engine, vectors, request)
    everything = asyncio.gather(*(rows.sample(*row) for row in request["rows"]))
    everything.add_done_callback(partial(_report, rows.messages))
    missing = len(request["rows"])
    try:
        while missing:
            try:
                message = await asyncio.wait_for(rows.messages.get(), BEAT)
            except (asyncio.TimeoutError, TimeoutError):  # one class since Python 3.11
                yield {"num_tokens": rows.num_tokens}
                continue
            missing -= 1
            yield message
            if "row" not in message:
                return
    finally:  # also if the trainer has gone: vLLM ends the completions of cancelled tasks
        everything.cancel()


def _report(queue: asyncio.Queue[dict[str, Any]], done: asyncio.Future[Any]) -> None:
    """Puts the error of a task that has ended into a queue."""
    if not done.cancelled() and (error := done.exception()) is not None:
        refused = {"refused": str(error)} if isinstance(error, Refused) else None
        queue.put_nowait(refused or {"error": f"{type(error).__name__}: {error}"})


def app_of(engine: Any, vectors: Vectors, facts: Mapping[str, Any], token: str) -> Any:
    """Returns the web application.

    Args:
        engine: vLLM's engine.
        vectors: Vectors of the engine.
        facts: What the trainer compares with its own model.
        token: Secret without which nothing is changed or sampled.
    """
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, StreamingResponse

    app = FastAPI()

    def check(request: Any) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(403, f"the token is not the server's; see {TOKEN}")

    async def info() -> Any:
        await engine.check_health()
        return {**facts, "version": vectors.version}

    async def change(request: Request) -> Any:
        check(request)
        since, to = (request.query_params[key] for key in ("since", "to"))
        is_new = await vectors.change(await request.body(), since, to)
        return JSONResponse({"version": vectors.version}, 200 if is_new else 409)

    async def generate(request: Request) -> Any:
        check(request)
        wanted = json.loads(await request.body())
        stack = AsyncExitStack()
        if not await stack.enter_async_context(vectors.constant(wanted["version"])):
            await stack.aclose()
            return JSONResponse({"version": vectors.version}, 409)
        messages = sampled(engine, vectors, wanted)
        stack.push_async_callback(messages.aclose)

        class Lines(StreamingResponse):
            async def __call__(self, *scope: Any) -> None:
                async with stack:  # also if the trainer has gone before the first line
                    await super().__call__(*scope)

        lines = (json.dumps(message) + "\n" async for message in messages)
        return Lines(lines, media_type="application/x-ndjson")

    app.add_api_route("/info", info, response_model=None)
    # annotations of nested functions are text that FastAPI can't resolve
    change.__annotations__ = generate.__annotations__ = {"request": Request}
    app.add_api_route("/vectors", change, methods=["PUT"], response_model=None)
    app.add_api_route("/generate", generate, methods=["POST"], response_model=None)
    return app


def facts_of(base: str, config: Any, tokenizer: Any, vllm: str) -> dict[str, Any]:
    """Returns what a trainer compares with its own model.

    Args:
        base: Name of the base, as given.
        config: vLLM's configuration of the model.
        tokenizer: Tokenizer of the model.
        vllm: Version of vLLM.
    """
    text = config.hf_text_config
    return {
        "protocol": PROTOCOL,
        "vllm": vllm,
        "base": base,
        "is_folder": Path(base).is_dir(),
        "revision": config.revision,
        "dtype": str(config.dtype).removeprefix("torch."),
        "architecture": config.architectures[0],
        "num_layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "vocabulary": vocabulary_of(tokenizer),
        "max_model_len": config.max_model_len,
    }


async def serve(args: Any, vllm: str) -> None:
    """Starts vLLM, and serves until the process is asked to end, or vLLM's own processes die."""
    import uvicorn
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((args.host, args.port))  # a port that is taken shows before the model loads
    door.listen()  # or another server could bind it, too
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(16)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
    try:
        vectors = Vectors(engine)
        await vectors.read()
        facts = facts_of(args.base, engine.model_config, engine.get_tokenizer(), vllm)
        print(f"rollout server at {args.host!r}, port {args.port:d}", flush=True)
        if not os.environ.get(TOKEN):
            print(f"for the trainer:  export STEER_LIGHTNING_ROLLOUT_TOKEN={token!r}", flush=True)
        app = app_of(engine, vectors, facts, token)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE)
        server = uvicorn.Server(config)
        watch = asyncio.create_task(_end_with(engine, server))
        await server.serve(sockets=[door])
        watch.cancel()
    finally:
        engine.shutdown()


async def _end_with(engine: Any, server: Any) -> None:
    while not engine.errored:
        await asyncio.sleep(BEAT)
    server.should_exit = True


def main(words: Sequence[str] | None = None) -> None:
    """Runs the server.

    Args:
        words: Options; by default those of this process.
    """
    vllm = installed_version()
    if not vllm.startswith(TESTED) and "--untested-vllm" not in (words or sys.argv):
        tested = ", ".join(f"{known}.*" for known in TESTED)
        sys.exit(
            f"error: vLLM {vllm} is installed, and the server has been tested with {tested}. "
            "Install that version, or try this one with --untested-vllm: the trainer compares its "
            "completions with the model before it learns from them"
        )
    # workers import `steered_worker`, whether they are forked or started anew
    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.getenv("PYTHONPATH")]))
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(description="Samples completions for steer-lightning.")
    parser.add_argument("--base", required=True, help="hub id or folder of the base")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--untested-vllm", action="store_true", help="run with any version of vLLM")
    args = AsyncEngineArgs.add_cli_args(parser).parse_args(words)
    args.model = args.tokenizer = args.base
    args.revision = args.revision or None  # an empty text is none
    args.worker_extension_cls = "steered_worker.SteeredWorker"
    args.logprobs_mode = "processed_logprobs"  # of the distribution that is sampled
    args.generation_config = "vllm"  # not the checkpoint's advice for chatting
    # vLLM would take compiled code of the unsteered model from its cache: its key knows of no hooks
    code = (Path(__file__).parent / "steered_worker.py").read_bytes()
    steered = {"steered_worker": hashlib.sha256(code).hexdigest()}
    args.additional_config = {**(args.additional_config or {}), **steered}
    asyncio.run(serve(args, vllm))


def installed_version() -> str:
    """Returns the version of vLLM, whose builds for CPUs have another name; exits without it."""
    names = packages_distributions().get("vllm")
    if not names:
        sys.exit("error: vLLM is not installed here. Run this file with vLLM's own Python")
    return version(names[0])


if __name__ == "__main__":
    main()
