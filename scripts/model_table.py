"""The table of docs/reference/models.md: what the self-checks say of every decoder architecture.

    python -m scripts.model_table --results sweep.jsonl --write docs/reference/models.md

Each architecture is measured in a process of its own. A sweep that was interrupted goes on if it is
started again with the same file of results; names measure these alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from scripts.model_measure import SITES, faults, measure
from scripts.small_models import NAMES, NOT_ALONE, VARIANTS
from steer_lightning.results.export import FORMATS

PAGE = Path(__file__).parents[1] / "docs/reference/models.md"
MARK = "<!-- python -m scripts.model_table writes what follows -->\n"
LIMIT = 240
"""Most seconds that one architecture may take."""

EVERY = sorted({*NAMES, *VARIANTS} - set(NOT_ALONE))
"""Names of all that is measured."""


def sweep(file: Path, names: Sequence[str] = (), workers: int = 1) -> list[dict[str, Any]]:
    """Measures architectures, those that a file of results does not hold yet.

    Args:
        file: File of results, JSON lines, to which is appended.
        names: Names to measure; default: all.
        workers: Number of processes at a time.

    Returns:
        The results of all the names, in their order.
    """
    names = names or EVERY
    known = {found["name"] for found in _read(file)}
    context = multiprocessing.get_context("fork")  # spares importing everything anew
    waiting, running = [name for name in names if name not in known], {}
    while waiting or running:
        while waiting and len(running) < workers:
            name, results = waiting.pop(0), context.SimpleQueue()
            process = context.Process(target=_measured, args=(name, results))
            process.start()
            running[name] = process, results, time.monotonic()
        for name, (process, results, start) in list(running.items()):
            if (found := _finished(process, results, start)) is not None:
                del running[name]
                with file.open("a") as lines:
                    lines.write(json.dumps({"name": name, **found}) + "\n")
                print(f"{name}: {'; '.join(faults(found)) or told(found)}", flush=True)
        time.sleep(0.05)
    by_name = {found["name"]: found for found in _read(file)}
    return [by_name[name] for name in names]


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _measured(name: str, results: Any) -> None:
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    try:
        results.put(measure(name))
    except Exception as error:  # whatever a model raises is a result here
        results.put({"raised": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def _finished(process: Any, results: Any, start: float) -> dict[str, Any] | None:
    """Returns the result of a process, once there is one."""
    found: dict[str, Any] | None = None
    if not results.empty():
        found = results.get()
    elif not process.is_alive():
        found = {"raised": f"its process ended with {process.exitcode}"}
    elif time.monotonic() - start > LIMIT:
        process.kill()
        found = {"raised": f"it took more than {LIMIT} seconds"}
    if found is not None:
        process.join()
        found["seconds"] = round(time.monotonic() - start, 1)
    return found


def told(found: dict[str, Any]) -> str:
    """Returns how an architecture is sampled and trained, in words."""
    if "refused" in found:
        return "refused"
    return f"{_way(found, 'sampling')}, {_way(found, 'update')}"


def _way(found: dict[str, Any], what: str) -> str:
    exact, rounded = found["float32"][what], found["bfloat16"][what]
    return exact if exact == rounded else f"{exact} (bfloat16: {rounded})"


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the lines of the table, one for each architecture."""
    lines = [
        "| Architecture | Sampling | Update | Log-probabilities, nats | Gradient | Sites | Exports "
        "| Why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [f"| {' | '.join(_cells(found))} |" for found in results]


def _cells(found: dict[str, Any]) -> list[str]:
    name = found["name"].replace("_", r"\_")
    if "refused" in found:
        return [name, "refused", "refused", "", "", "", "", _short(found["refused"])]
    exact, rounded = found["float32"], found["bfloat16"]
    sampled = [
        _figure(x.get("sampling_gap", {}).get(k)) for x, k in ((exact, "max"), (rounded, "mean"))
    ]
    trained = [_figure(x.get("update_gap")) for x in (exact, rounded)]
    set_path = f"Set `layers_path: {found['layers_path']}`. " if found["layers_path"] else ""
    set_site = f"Set `site: {found['site']}`. " if found["site"] != SITES[0] else ""
    return [
        name,
        _way(found, "sampling"),
        _way(found, "update"),
        " / ".join(sampled) if any(sampled) else "",
        " / ".join(trained) if any(trained) else "",
        _all_of(found["sites"], SITES),
        _all_of(found["exports"], FORMATS),
        set_path + set_site + _why(exact),
    ]


def _all_of(found: Sequence[str], every: Collection[str]) -> str:
    return "all" if len(found) == len(every) else ", ".join(found) or "none"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _why(ways: dict[str, Any]) -> str:
    """Says why an architecture is not sampled and trained in the fastest way, as the checks say."""
    reasons = {
        "Sampling": _short(*ways["sampling_told"]),
        "Update": _short(*ways["update_told"]),
    }
    return " ".join(f"{what}: {reason}." for what, reason in reasons.items() if reason)


PARTS = (
    (r"does not decode correctly in DecodeEngine \((.*)\): GenerateEngine", "{}"),
    (r"does not read padded batches correctly \((.*)\): (?:the completions|rows)", "padded: {}"),
    (r"can't be packed for the update \((.*)\): they are", "{}"),
    (r"can't be padded for the update \((.*)\): they are", "padded: {}"),
    (r"not even without padding. Its (.*)\. Use another", "alone: {}"),
    (r"from plain passes of the model. The (.*)\. Use another", "alone: {}"),
)
"""Patterns of the warnings and errors of the self-checks, and what is kept of them."""


def _short(*messages: str) -> str:
    return "; ".join(dict.fromkeys(_reason(message) for message in messages))


def _reason(message: str) -> str:
    for pattern, form in PARTS:
        if match := re.search(pattern, message):
            reason = re.sub(r"log-probabilities differ( from a plain pass)?", "off", match[1])
            reason = re.sub(r", more than .*", "", reason)
            reason = re.sub(r"steer_lightning_\d+", "steer_lightning", reason)
            return form.format(_cut(reason.replace("NotImplementedError: ", "")))
    return _cut(message)


def _cut(text: str, most: int = 110) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " ..."


def without_figures(lines: Sequence[str]) -> list[str]:
    """Returns lines without the numbers that differ from machine to machine."""
    return [re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", line) for line in lines]


def page(results: Sequence[dict[str, Any]]) -> str:
    """Returns the part of the page that is written."""
    ways = Counter(told(found) for found in results)
    wrong = {found["name"]: faults(found) for found in results if faults(found)}
    versions = f"transformers {tf.__version__}, torch {torch.__version__.split('+')[0]}"
    lines = [
        f"Measured on {date.today()} with {versions}, on a CPU: {len(results)} models of "
        f"{len(set(NAMES) - set(NOT_ALONE))} architectures. {len(VARIANTS)} of the models have "
        f"settings that are off by default. **{len(wrong)} silently wrong**.",
        "",
        "| Sampling, update | Models |",
        "|---|---|",
        *(f"| {way} | {count} |" for way, count in ways.most_common()),
        "",
        *table(results),
        "",
        "No small model could be made of these architectures:",
        "",
        *(f"- {name.replace('_', chr(92) + '_')}: {why}." for name, why in NOT_ALONE.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the sweep, and writes the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--results", type=Path, required=True, help="file of results, JSON lines")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--write", type=Path, help="page whose table is renewed")
    options = parser.parse_args()
    results = sweep(options.results, options.names, options.workers)
    wrong = [f"{found['name']}: {'; '.join(faults(found))}" for found in results if faults(found)]
    if options.write:
        head = options.write.read_text().split(MARK)[0]
        options.write.write_text(head + MARK + "\n" + page(results))
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
