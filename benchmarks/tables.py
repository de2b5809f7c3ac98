"""Writes the tables of `docs/` from `benchmarks/results/`.

python benchmarks/tables.py            # after a benchmark
python benchmarks/tables.py --check    # fails if a table is not that of the results
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
RESULTS = ROOT / "benchmarks/results"
Result = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origin(result: Result) -> str:
    """The line below a table."""
    return (
        f"`{result['command']}` at {result['commit']}; {result['machine']}; {result['versions']}."
    )


def rl_step(result: Result) -> str:
    """Both sides' medians and their ratios."""
    mine = result["medians"]["ours"]
    ((peer, theirs),) = [(k, v) for k, v in result["medians"].items() if k != "ours"]
    parts = [("rollout", "s"), ("reward", "s"), ("update", "s"), ("step", "s")]
    parts += [("rollout_tokens_per_second", "tokens/s"), ("peak_memory_mb", "MB")]
    rows = []
    for part, unit in parts:
        a, b = mine[part], theirs[part]
        ratio = a / b if unit == "tokens/s" else b / a
        digits = 3 if unit == "s" else 0
        shown = f"{ratio:.2f} x" if part != "reward" else ""
        both = [f"{value:.{digits}f} {unit}" for value in (a, b)]
        rows.append([part.replace("_", " "), *both, shown])
    if "limit" in result:
        shown = f"at most {result['ratio_limit']:.2f} x"
        rows.append(["bare matrix products of a step", f"{result['limit']:.3f} s", "", shown])
    return table(["", "ours", peer, "ours is better by"], rows)


def rollout(result: Result) -> str:
    """Seconds of both engines and of the bare products."""
    seconds, speed = result["seconds"], result["tokens_per_second"]
    names = {
        "ours": "DecodeEngine",
        "generate": "transformers.generate",
        "limit": "bare matrix products",
    }
    rows = []
    for key, name in names.items():
        share = f"{seconds['ours'] / seconds[key]:.2f}"
        rows.append([name, f"{seconds[key]:.3f} s", f"{speed[key]:,.0f}", share])
    return table(["", "time", "tokens/s", "speed, DecodeEngine = 1"], rows)


def hybrids(result: Result) -> str:
    """Both engines' speeds for each architecture."""
    names = {
        "deepseek_v3": "DeepSeek V3",
        "gemma2": "Gemma 2",
        "gemma4": "Gemma 4",
        "gpt_oss": "gpt-oss",
        "granite4": "Granite 4",
        "lfm2": "LFM2",
        "nemotron_h": "Nemotron-H",
        "qwen3_5": "Qwen3.5",
        "qwen3_next": "Qwen3-Next",
    }
    rows = [
        [names[key], f"{x['ours']:,.0f}", f"{x['generate']:,.0f}", f"{x['ratio']:.2f} x"]
        for key, x in result["models"].items()
    ]
    head = ["", "DecodeEngine, tokens/s", "transformers.generate, tokens/s", "faster by"]
    return table(head, rows)


def memory(result: Result) -> str:
    """Peak memory beyond the model, and time."""
    rows = [
        (f"made up, V = {x['vocabulary']:,}, {x['length']} tokens", x)
        for x in result["by_vocabulary"]
    ]
    rows += [(f"{result['model']}, {x['length']} tokens", x) for x in result["by_length"]]
    x = result["checkpointed"]
    rows.append((f"{result['model']}, {x['length']} tokens, activation checkpointing", x))
    shown = [[name, f"{x['peak_mb']:,.0f} MB", f"{x['seconds']:.2f} s"] for name, x in rows]
    return table([f"{result['rows']} rows", "peak beyond the model", "time"], shown)


def footprint(result: Result) -> str:
    """The three ways of training."""
    rows = [
        [
            x["way"],
            f"{x['trained_parameters']:,}",
            *(f"{x[f'{key}_bytes']:,}" for key in ("optimizer", "checkpoint", "sampler")),
            f"{x['sampler_seconds'] * 1e3:.2f} ms",
        ]
        for x in result["ways"]
    ]
    head = ["", "trained parameters", "optimizer, bytes", "checkpoint, bytes"]
    return table([*head, "to the sampler, bytes", "time to hand them over"], rows)


def doubling(result: Result) -> str:
    """Time by length."""
    rows = [
        [f"{x['length']} tokens", f"{x['seconds']:.3f} s", f"{x['ratio']:.2f} x"]
        for x in result["rows"]
    ]
    return table(["completions of", "rollout and update", "against half the length"], rows)


def eight_bit(result: Result) -> str:
    """The optimizers over their seeds."""
    rows = []
    for name in dict.fromkeys(run["optimizer"] for run in result["runs"]):
        runs = [run for run in result["runs"] if run["optimizer"] == name]
        shown = [f"{runs[0]['state_bytes']:,}", " ".join(runs[0]["moments"])]
        for key in ("before", "after"):
            found = [run[key] for run in runs]
            shown.append(f"{min(found):.1%} to {max(found):.1%}")
        rows.append([name, *shown])
    head = ["", "state, bytes", "moments", "accuracy before", "after"]
    return table(head, rows)


def memory_plan(result: Result) -> str:
    """A line for each model and number of GPUs."""
    rows = []
    for x in result["rows"]:
        gib = {key: f"{x[key] / 2**30:.1f}" for key in ("weights", "rollout", "update")}
        how = "once a rollout" if x["gathers_for_rollouts"] else "layer by layer"
        rows.append(
            [
                x["model"],
                f"{x['gpus']}",
                x["strategy"],
                gib["weights"],
                how if x["gpus"] > 1 else "",
                f"{x['vectors_gradient_optimizer'] / 2**20:.1f} MiB",
                gib["rollout"],
                gib["update"] + (" (checkpointing)" if x["checkpointing"] else ""),
                f"{x['most_tokens_in_flight']:,}" if x["fits"] else "does not fit",
            ]
        )
    head = ["", "GPUs", "strategy", "weights, GiB", "gathered", "vectors, gradient, optimizer"]
    head += ["peak of a rollout, GiB", "peak of an update, GiB", "most tokens in flight"]
    return table(head, rows)


def scaling(result: Result) -> str:
    """A line for each number of GPUs."""
    alone = {x["gpus"]: x for x in result["alone"]}
    rows = []
    for x in result["traffic"]:
        n = x["gpus"]
        sizes = [f"{x[key] / 1e6:,.2f} MB" for key in ("gradient", "rows")]
        sizes += [f"{x[key] / 1e9:,.1f} GB" for key in ("weights_once", "full_gradient")]
        times = [f"{alone[n][key] * 1e3:,.0f} ms" for key in ("joining_s", "connecting_s")]
        rows.append([x["model"], f"{n:,}", *sizes, *times])
    head = ["", "GPUs", "gradient of the vectors", "rewards of all", "weights, inside a node"]
    head += ["a full gradient, not sent", "joining the rewards", "connections, once a run"]
    return table(head, rows)


def algorithms(result: Result) -> str:
    """A line for each overlay."""
    rows = [
        [
            f"`{x['overlay']}.yaml`" if x["overlay"] else "`quickstart.yaml` alone: RLOO",
            f"{x['before']:.1%}",
            f"{x['after']:.1%}",
            f"{x['seconds']:.0f} s",
        ]
        for x in result["runs"]
    ]
    return table(["", "accuracy before", f"after {result['runs'][0]['steps']} steps", "time"], rows)


def claim(result: Result) -> str:
    """A line for each arm, over its seeds."""
    rows = []
    for name in dict.fromkeys(run["arm"] for run in result["runs"]):
        runs = [run for run in result["runs"] if run["arm"] == name]
        after = [run["after"] for run in runs]
        rate = result["rates"].get(name)
        rows.append(
            [
                name,
                "" if rate is None else f"{rate:g}",
                f"{runs[0]['trained']:,}",
                f"{runs[0]['optimizer_bytes']:,}",
                f"{sum(after) / len(after):.1%}",
                f"{min(after):.1%} to {max(after):.1%}",
                f"{result['recovered_by'][name]:.0%}",
                f"{sum(run['seconds'] for run in runs) / len(runs):.0f} s",
            ]
        )
    head = ["", "learning rate", "trained numbers", "optimizer, bytes", "accuracy after"]
    return table([*head, "over the seeds", "of full fine-tuning's gain", "time"], rows)


def few_numbers(result: Result) -> str:
    """A line for each arm and seed, with its interval over problems."""
    rows = [
        [
            run["arm"],
            f"{run['trained']:,}",
            ", ".join(
                f"{float(rate):g}: {reward:.2f}"
                for rate, reward in result["rates"][run["arm"]].items()
            ),
            f"{run['seed']}",
            f"{run['after']:.1%}",
            f"{run['low']:.1%} to {run['high']:.1%}",
        ]
        for run in result["runs"]
    ]
    head = ["", "trained numbers", "rates, with the reward in training", "seed"]
    return table([*head, "accuracy after", "95 % interval"], rows)


def arms(result: Result) -> str:
    """CPU seconds of both ways, by the number of problems at once."""
    rows = [
        [
            f"{x['batch_size']}",
            *(f"{x[name]:.2f} s" for name in ("together", "in_turn")),
            f"{x['ratio']:.2f}",
        ]
        for x in result["rows"]
    ]
    return table(["`batch_size`", "in one flight", "one after another", "ratio"], rows)


def sweep(result: Result) -> str:
    """Time and memory of a sweep and of its runs one by one."""
    rounds = result["rounds"]

    def median(name: str) -> float:
        return statistics.median(x[name] for x in rounds)

    alone = statistics.median(sum(x["fit_seconds"]) for x in rounds)
    rows = [
        [
            "time",
            f"{median('sweep_seconds'):.0f} s",
            f"{alone:.0f} s",
            f"{result['ratio_time']:.2f}",
        ],
        [
            "peak memory",
            f"{median('sweep_memory_mb'):,.0f} MB",
            f"{median('fit_memory_mb'):,.0f} MB",
            f"{result['ratio_memory']:.2f}",
        ],
    ]
    count = result["experiments"]
    return table(["", f"a sweep of {count}", f"{count} runs one after another", "ratio"], rows)


MAKERS: dict[str, Callable[[Result], str]] = {
    "rl_step": rl_step,
    "rollout": rollout,
    "hybrids": hybrids,
    "memory_plan": memory_plan,
    "memory": memory,
    "scaling": scaling,
    "doubling": doubling,
    "footprint": footprint,
    "eight_bit": eight_bit,
    "algorithms": algorithms,
    "claim": claim,
    "few_numbers": few_numbers,
    "arms": arms,
    "sweep": sweep,
}


def filled_in(text: str) -> str:
    """The document with each table made anew."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        result = json.loads((RESULTS / f"{name}.json").read_text())
        kind = next(kind for kind in MAKERS if name.startswith(kind))
        made = f"{MAKERS[kind](result)}\n\n{origin(result)}"
        return f"<!-- table: {name} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Rewrites or checks the documents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for document in DOCUMENTS:
        before = document.read_text()
        after = filled_in(before)
        if args.check and after != before:
            sys.exit(f"{document.relative_to(ROOT)}: run python benchmarks/tables.py")
        if after != before:
            document.write_text(after)


if __name__ == "__main__":
    main()
