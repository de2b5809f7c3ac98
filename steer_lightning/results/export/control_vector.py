"""The format `gguf`: a llama.cpp control vector, which consists of tensors `direction.N`.

llama.cpp adds `direction.N` to the stream after decoder layer N, counted from 0, and has no tensor
for layer 0: it refuses a file with `direction.0`. EasySteer reads the same files and accepts
`direction.0`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.system.extras import install_command

FILE = "steering_vectors.gguf"
ARCHITECTURE = "controlvector"


def require_gguf(to: str) -> None:
    """Raises a ConfigError if the package gguf is missing.

    Args:
        to: Format that needs the package, for the message.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "to", to, rule="needs the package gguf", fix=install_command("export")
        ) from error


def write_control_vector(path: Path, vectors: SteeringVectors, model_hint: str) -> None:
    """Writes the vectors in float32.

    Args:
        path: File to write.
        vectors: Vectors in the scale of the stream.
        model_hint: Architecture of the model, for programs that read the file.
    """
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors.layers))
    for layer, vector in zip(vectors.layers, vectors.vectors.detach(), strict=True):
        writer.add_tensor(f"direction.{layer}", vector.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_control_vector(path: Path, num_layers: int) -> SteeringVectors:
    """Reads a control vector.

    Args:
        path: File of the control vector.
        num_layers: Number of decoder layers of the model, which the file does not contain.
    """
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    found = {int(tensor.name.removeprefix("direction.")): tensor.data for tensor in tensors}
    rows = torch.stack([torch.from_numpy(np.array(found[layer])) for layer in sorted(found)])
    return plain_vectors(rows, sorted(found), num_layers)
