"""The command `doctor`: collects the facts for a bug report, and checks that training works."""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from steer_lightning.cli.shipped import PACKAGE, configuration
from steer_lightning.errors import ConfigError
from steer_lightning.system.extras import PROJECT, install_command
from steer_lightning.system.hub_answers import ask, hub_endpoint, is_offline
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import SUMMARY
from steer_lightning.system.showing import reason

if TYPE_CHECKING:
    from packaging.requirements import Requirement

HELP = """\
usage: steer-lightning doctor [--json]

Shows versions, devices, memory and what is missing, and trains for one step. Put its output into a
bug report. Lines marked with ! must be fixed; if there are any, the exit status is 1.

  --json  prints JSON instead of lines"""

WIDTH = 18
"""Width of the first column."""

FOR_DEVELOPERS = {"bench", "dev", "fuzz", "test"}
"""Extras that only people who work on the package itself need."""

MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Finding:
    """A line about this machine.

    Attributes:
        about: What the line is about.
        told: What was found.
        is_fault: Whether it must be fixed before anything can be trained.
    """

    about: str
    told: str
    is_fault: bool = False


def run(words: Sequence[str]) -> None:
    """Runs `doctor`, and ends the process with status 1 if anything must be fixed.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the options.
    """
    # jsonargparse, which reads the options of other commands, may itself be missing
    given = list(words[1:])
    if given in (["-h"], ["--help"]):
        print(HELP)
    elif given not in ([], ["--json"]):
        raise ConfigError("doctor", " ".join(given), rule="takes no option except --json")
    elif not doctor(json=bool(given)):
        sys.exit(1)


def doctor(json: bool = False) -> bool:
    """Examines the machine, and prints what it finds.

    Args:
        json: Whether to print JSON instead of lines.

    Returns:
        Whether there is nothing to fix.
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not json:  # print each line at once: the imports for the last ones take seconds
            mark = "!" if finding.is_fault else " "
            print(
                f"{mark} {one_line(finding.about.ljust(WIDTH))} {one_line(finding.told)}",
                flush=True,
            )
    num_faults = sum(finding.is_fault for finding in findings)
    if json:
        every = [asdict(finding) for finding in findings]
        print(one_line(dumps({"num_faults": num_faults, "findings": every})))
    elif num_faults:
        print(f"\nfindings to fix, marked with !: {num_faults:d}")
    else:
        print("\neverything works")
    return num_faults == 0


def examine() -> Iterator[Finding]:
    """Yields the findings of one examination after the other; one that fails is a finding."""
    for about, examination in EXAMINATIONS.items():
        try:
            yield from examination()
        except Exception as error:  # every error belongs in the report
            yield Finding(about, reason(error), is_fault=True)


def _system() -> Iterator[Finding]:
    yield Finding(PROJECT, f"{version(PROJECT)}, in {PACKAGE}")
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", platform.platform())


def _libraries() -> Iterator[Finding]:
    for needed in _requirements(""):
        found = _installed(needed)
        if found is None:
            yield Finding(needed.name, f'missing: pip install "{needed}"', is_fault=True)
            continue
        fits = needed.specifier.contains(found, prereleases=True)
        yield Finding(
            needed.name, found if fits else f"{found}: must be {needed.specifier}", not fits
        )


def _extras() -> Iterator[Finding]:
    for extra in metadata(PROJECT).get_all("Provides-Extra") or []:
        if extra in FOR_DEVELOPERS:
            continue
        missing = [needed.name for needed in _requirements(extra) if _installed(needed) is None]
        told = f"without {', '.join(missing)}: {install_command(extra)}" if missing else "installed"
        yield Finding(f"extra {extra}", told)


def _requirements(extra: str) -> Iterable[Requirement]:
    """Returns what the package needs: always, or for one of its extras."""
    from packaging.requirements import Requirement  # comes with Lightning

    every = map(Requirement, requires(PROJECT) or [])
    if not extra:
        return [x for x in every if x.marker is None or x.marker.evaluate({"extra": ""})]
    return [x for x in every if x.marker is not None and x.marker.evaluate({"extra": extra})]


def _installed(needed: Requirement) -> str | None:
    try:
        return version(needed.name)
    except PackageNotFoundError:
        return None


def _memory() -> Iterator[Finding]:
    if MEMORY.exists():
        rows = (line.split() for line in MEMORY.read_text().splitlines())
        sizes = {row[0]: int(row[1]) * 1024 for row in rows}
        told = f"{_size(sizes['MemAvailable:'])} of {_size(sizes['MemTotal:'])} free"
    elif hasattr(os, "sysconf"):
        told = _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    else:
        told = "unknown on this system"
    yield Finding("memory", told)
    disk = shutil.disk_usage(".")
    yield Finding("disk", f"{_size(disk.free)} of {_size(disk.total)} free in this folder")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _hub() -> Iterator[Finding]:
    host = urlsplit(hub_endpoint()).hostname or ""  # the address may hold a password
    if is_offline():
        yield Finding("hub", "not contacted: HF_HUB_OFFLINE is set")
        return
    start = time.monotonic()
    try:
        ask(hub_endpoint())
    except (OSError, ValueError) as error:
        told = f"{host} does not answer ({reason(error)}): only downloaded files can be used"
        yield Finding("hub", told)
    else:
        yield Finding("hub", f"{host} answers within {time.monotonic() - start:.1f} s")


# torch, bitsandbytes and Lightning are imported only by their own examinations: if one of them is
# missing, or its import fails, the other findings are still reported


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        name, (major, minor) = torch.cuda.get_device_name(k), torch.cuda.get_device_capability(k)
        told = f"{name}, compute capability {major}.{minor}, {_size(free)} of {_size(total)} free"
        yield Finding(f"cuda:{k}", told)
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")
    elif not torch.cuda.is_available():
        told = "none" if torch.version.cuda else "none, and this torch is built for CPUs only"
        if shutil.which("nvidia-smi"):
            told += "; there is an NVIDIA driver: install the build of torch for its CUDA version"
        yield Finding("GPU", told)


def _eight_bit() -> Iterator[Finding]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        eight_bit: Any = import_module("bitsandbytes.optim")
        numbers = torch.nn.Parameter(torch.ones(4096, device=device))
        optimizer = eight_bit.AdamW8bit([numbers], lr=0.5, min_8bit_size=0)
        numbers.grad = torch.ones_like(numbers)
        optimizer.step()
        is_done = bool((numbers < 0.75).all())  # the first step of Adam is the learning rate
        state = optimizer.state[numbers]["state1"].dtype
        told = f"works on {device}" if is_done and state == torch.uint8 else "does nothing"
    except Exception as error:  # a missing kernel raises many kinds of errors
        told = f"has no kernel for {device} ({reason(error)}): 8-bit optimizers can't be used"
    yield Finding("bitsandbytes", told)


def _trial() -> Iterator[Finding]:
    from steer_lightning.cli import fit

    said, start = io.StringIO(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", f"--config={configuration('--config', 'quickstart')}"]
        words += [f"--trainer.default_root_dir={folder}", "--trainer.accelerator=auto"]
        words += ["--trainer.max_steps=1", "--trainer.callbacks=[]", "--data.batch_size=4"]
        words += ["--trainer.enable_progress_bar=false", "--data.test=null"]
        with redirect_stdout(said), redirect_stderr(said):
            fit.run(words)
        if not (Path(folder) / "run-1" / SUMMARY).exists():
            raise RuntimeError(f"the run has not ended: {said.getvalue()}")
    told = f"one step of the quickstart model in {time.monotonic() - start:.1f} s"
    yield Finding("training", told)


EXAMINATIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    PROJECT: _system,
    "libraries": _libraries,
    "extras": _extras,
    "memory": _memory,
    "hub": _hub,
    "devices": _devices,
    "bitsandbytes": _eight_bit,
    "training": _trial,
}
"""Examinations by their subject, in the order of the report."""
