"""The command `export`: writes vectors in the formats of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from steer_lightning.cli import interruptible
from steer_lightning.cli.options import read_options
from steer_lightning.system.printable import one_line, printable


def run(words: Sequence[str]) -> None:
    """Runs `export`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake, before anything is written.
    """
    options = read_options(
        words[1:],
        export,
        prog="steer-lightning export",
        description="Writes vectors in another tool's format, reads them back and compares.",
    )
    with interruptible(f"nothing was written to {options['output']}"):
        export(**options)


def export(
    vectors: str,
    to: Literal["transformers", "peft", "gguf", "vllm", "easysteer"],
    output: str,
    merge_from: str | None = None,
    revision: str | None = None,
    scale: float = 1.0,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Exports vectors, and prints how the export compares with the steered base.

    Args:
        vectors: File of vectors.
        to: Format of the export: `transformers`, a stock checkpoint with the vectors as biases;
            `vllm`, the same checkpoint with the command that serves it; `peft`, an adapter for the
            base; `gguf`, a llama.cpp control vector; `easysteer`, the steering of a request for
            EasySteer's build of vLLM.
        output: Folder to make.
        merge_from: Base of the export: a hub id, a local folder or `quickstart`; null takes the
            base that the vectors name.
        revision: Branch, tag or commit of the base on the hub; null takes the one that the vectors
            name.
        scale: Factor by which all vectors are multiplied.
        overwrite: Whether to replace an earlier export in that folder.
        verify: Whether to compare the export with the steered base. For `transformers` and `vllm`,
            one layer at a time is in memory; for the other formats, the whole base in float32.
    """
    from steer_lightning.results.export import export_vectors

    report = export_vectors(
        vectors,
        to=to,
        output=output,
        merge_from=merge_from,
        revision=revision,
        scale=scale,
        overwrite=overwrite,
        verify=verify,
    )
    size = f"{report.size / 1e6:.1f} MB" if report.size > 1e6 else f"{report.size / 1e3:.0f} kB"
    lack = f": {one_line(report.lack)}" if report.lack else ""
    print(f"{one_line(report.folder)} ({size}){lack}\n")
    if report.findings is None:
        print("not compared with the steered base\n")
    else:
        print("compared with the steered base:")
        print("".join(f"  {one_line(line)}\n" for line in report.findings.lines))
    print(printable(report.usage), end="")
