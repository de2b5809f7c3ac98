"""Turns a GGUF file into a folder of plain weights, as `model.base` takes it.

`prepare_gemma3_270m.py` and `prepare_smollm2.py` get the files and call `save_plain_weights`.
Quantised weights are dequantised to float32 once, so that later loads take seconds.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning.system.whole_files import folder_written_aside


def is_prepared(folder: Path) -> bool:
    """Tells whether the folder holds a model already, and says so in the terminal."""
    there = (folder / "config.json").exists()
    if there:
        print(f"{folder} is there already")
    return there


def save_plain_weights(gguf: Path, output: Path) -> int:
    """Dequantises a GGUF file, and writes model and tokenizer to a folder, whole or not at all.

    Args:
        gguf: File with weights and tokenizer.
        output: Folder to make.

    Returns:
        Number of parameters of the model.
    """
    folder, name = str(gguf.parent), gguf.name
    print("loading the tokenizer ...", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    print("dequantising the weights ...", flush=True)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    model.hf_quantizer = None  # they are plain weights now, and are to be saved as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with folder_written_aside(output) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{num_parameters:,} parameters in {output}")
    return num_parameters
