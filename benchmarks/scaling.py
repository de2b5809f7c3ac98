"""Traffic of a step for up to 1,024 GPUs, and what one process can still do alone.

    python benchmarks/wire.py --processes 2 --json benchmarks/results/wire.json
    python benchmarks/wire.py --processes 4 --json benchmarks/results/wire_4.json
    python benchmarks/scaling.py

Traffic is computed from bytes that were counted in real runs (`wire.py`): those of 2 processes give
the formulas, those of 4 processes check them. Two things that grow with the number of processes are
run with as many as the table says, the others made up: joining the rewards of all processes, and
the first process's connections to all others.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import ROOT, write_json
from memory_plan import CONFIGS, sizes_of

from steer_lightning import step
from steer_lightning.advantages import RLOO
from steer_lightning.rewards import Scores
from steer_lightning.system.peer_watch import PeerWatch
from steer_lightning.types import Problem, Prompt, Rollouts

GPUS = (8, 64, 128, 256, 1024)
NODE = 8
GROUP = 16
RESULTS = ROOT / "benchmarks/results"


def check_formulas() -> dict[str, dict[str, int]]:
    """What 2 processes foretell for 4, and what 4 processes sent."""
    two, four = (
        json.loads((RESULTS / name).read_text())["counts"] for name in ("wire.json", "wire_4.json")
    )
    found = {}
    for name, key, factor in (
        ("gradient, ddp", ("ddp", "rest: allreduce"), 1.0),
        ("gradient, fsdp2", ("fsdp2", "rest: allreduce"), 1.0),
        ("weights for a rollout, fsdp2", ("fsdp2", "rest: allgather_base"), 0.5),
    ):
        before, after = (counts[key[0]]["base"][key[1]][1] for counts in (two, four))
        found[name] = {"foretold": int(before * factor), "counted": after}
    return found


def gathered_bytes() -> tuple[float, float]:
    """What a process tells the others: bytes for each of its completions, and beside these.

    From the 16 completions of each of 2 processes, and the 8 of each of 4.
    """
    two, four = (
        json.loads((RESULTS / name).read_text())["counts"]["ddp"]["base"]["rest: allgather"][1]
        for name in ("wire.json", "wire_4.json")
    )
    slope = (two - four) / 8
    return slope, two - 16 * slope


def traffic(model: str, gpus: int) -> dict[str, Any]:
    """Bytes that a GPU receives in a step in which each process has one prompt."""
    sizes = sizes_of(CONFIGS[model], torch.bfloat16)
    each, beside = gathered_bytes()
    return {
        "model": model,
        "gpus": gpus,
        "gradient": 4 * sizes.vectors,
        "rows": int(gpus * (each * GROUP + beside)),
        "weights_once": sizes.weights * (NODE - 1) // NODE,
        "full_gradient": sizes.weights,
    }


def made_up_share(prompts: int) -> tuple[Rollouts, Scores]:
    """What a process knows of its own completions."""
    rows = prompts * GROUP
    problem = Problem(question="", answer="")
    rollouts = Rollouts(
        prompts=tuple(
            Prompt(id=k, problem=problem, text="", token_ids=(1,)) for k in range(prompts)
        ),
        group_size=GROUP,
        completion_ids=torch.ones(rows, 4, dtype=torch.long),
        completion_mask=torch.ones(rows, 4, dtype=torch.bool),
        logprobs=torch.zeros(rows, 4),
        finished=torch.ones(rows, dtype=torch.bool),
        texts=("",) * rows,
    )
    scores: list[float | None] = [float(k % 3 == 0) for k in range(rows)]
    outcomes = {"MathReward": {"right": rows, "wrong": 0, "timed_out": 0, "crashed": 0}}
    return rollouts, Scores(total=scores, parts={"MathReward": scores}, outcomes=outcomes)


def time_joining(gpus: int, repeats: int = 5) -> float:
    """Median seconds in which a process joins the rewards of all: one prompt of each."""
    rollouts, scores = made_up_share(1)

    def gather(own: Any) -> list[Any]:
        sent = pickle.dumps(own)
        return [pickle.loads(sent) for _ in range(gpus)]

    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        with (
            patch.object(step, "gather_objects", gather),
            patch.object(step, "world_size", lambda: gpus),
        ):
            rows = step.gather_figures(rollouts, scores, 1.0)
        RLOO()(rows.rewards)
        found.append(time.perf_counter() - start)
        assert rows.rewards.shape == (gpus, GROUP)
    return statistics.median(found)


def time_connecting(gpus: int) -> float:
    """Seconds until the first process watches all others, which are sockets of this process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit < 2 * gpus + 100:
        raise SystemExit(f"{gpus} connections need ulimit -n {2 * gpus + 100}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    door: list[Any] = []
    watch: list[PeerWatch] = []
    start = time.perf_counter()

    def broadcast(told: Any) -> Any:
        door.append(told)
        return told

    thread = threading.Thread(target=lambda: watch.append(PeerWatch(0, gpus, "", broadcast)))
    thread.start()
    thread.join()
    _, port, token = door[0]
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(gpus - 1)]
    for number, peer in enumerate(peers):
        peer.sendall((json.dumps({"token": token, "rank": number + 1}) + "\n").encode())
    while len(watch[0]._names) < gpus - 1:
        time.sleep(0.001)
    seconds = time.perf_counter() - start
    for peer in peers:
        peer.sendall(b'{"left": true}\n')
    while watch[0]._names:
        time.sleep(0.001)
    for peer in peers:
        peer.close()
    return seconds


def main() -> None:
    """Computes, runs, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"check": check_formulas(), "gathered_bytes": gathered_bytes()}
    result["traffic"] = [
        traffic(model, gpus) for model in ("Qwen2.5-7B", "Qwen2.5-14B") for gpus in GPUS
    ]
    result["alone"] = [
        {"gpus": n, "joining_s": time_joining(n), "connecting_s": time_connecting(n)} for n in GPUS
    ]
    print(json.dumps(result, indent=2))
    write_json(options.json, result)


if __name__ == "__main__":
    main()
