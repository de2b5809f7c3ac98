"""The format `easysteer`: steering that EasySteer's build of vLLM takes with each request.

The export is a `SteeringSpec` as JSON, for the `steering` field of a request or for
`--steering-config`: one vector of algorithm `direct`, which is added to the output of decoder
layers, for all tokens of prompt and completion. The JSON contains the weights in EasySteer's wire
form (version 1): float32 bytes in base64, and a hash of their content (arXiv 2509.25175; repository
ZJU-REAL/EasySteer, docs/api-reference/payloads.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer_lightning.errors import ConfigError
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors
from steer_lightning.system.printable import one_line, python_text

FILE = "steering.json"
WIRE_VERSION = 1
KIND = "direction"
EVERYWHERE = {"prompt": "all", "generation": "all"}


def steering_spec(vectors: SteeringVectors) -> dict[str, Any]:
    """Makes the specification, ready for JSON.

    Args:
        vectors: Vectors in the scale of the stream.
    """
    plain = vectors.vectors.detach().numpy().astype("<f4")
    tensors = {
        f"layer.{layer}": {
            "shape": [vectors.width],
            "data": base64.b64encode(row.tobytes()).decode("ascii"),
        }
        for layer, row in zip(vectors.layers, plain, strict=True)
    }
    data = {"version": WIRE_VERSION, "kind": KIND, "tensors": tensors, "extra": {}}
    vector = {
        "data": {**data, "sha256": _digest(tensors)},
        "algorithm": "direct",
        "scale": 1.0,
        "layers": list(vectors.layers),
        "normalize": False,
        "apply": EVERYWHERE,
    }
    return {"vectors": [vector]}


def read_spec(path: Path, num_layers: int) -> SteeringVectors:
    """Reads a specification back, with the checks that EasySteer makes.

    Args:
        path: File of the specification.
        num_layers: Number of decoder layers of the model, which the file does not contain.

    Raises:
        ConfigError: If the file does not have the form that `steering_spec` writes.
    """
    (vector,) = json.loads(path.read_text())["vectors"]
    data = vector["data"]
    whole = data["version"] == WIRE_VERSION and data["kind"] == KIND
    whole = whole and data["sha256"] == _digest(data["tensors"])
    whole = whole and vector["algorithm"] == "direct" and vector["apply"] == EVERYWHERE
    if not whole:
        raise ConfigError("steering.json", str(path), rule="is not a specification of this format")
    found = {
        int(name.removeprefix("layer.")): np.frombuffer(base64.b64decode(part["data"]), "<f4")
        for name, part in data["tensors"].items()
    }
    rows = np.stack([found[layer] for layer in vector["layers"]]) * vector["scale"]
    plain = torch.from_numpy(rows.astype(np.float32))
    return plain_vectors(plain, vector["layers"], num_layers)


def usage(base: str, output: Path, revision: str | None = None) -> str:
    """Explains in Markdown how the files are used.

    Args:
        base: Hub id or folder of the base.
        output: Folder of the files.
        revision: Revision of the base on the hub.
    """
    words = ["vllm", "serve", base, *(["--revision", one_line(revision)] if revision else [])]
    serve, file = shlex.join(words), str(output / FILE)
    return f"""Serve the base with EasySteer's build of vLLM:

```bash
{serve} --enable-steer-vector --steer-algorithms direct
```

Each request carries its own steering. The base answers requests without `steering`:

```python
import json

from openai import OpenAI

base = {python_text(base)}
path = {python_text(file)}
client = OpenAI(base_url="http://localhost:8000/v1", api_key="EMPTY")
with open(path) as file:
    steering = json.load(file)
client.completions.create(model=base, prompt="1+1=", extra_body={{"steering": steering}})
```

`{serve} --steering-config {shlex.quote(file)}` steers every request that does not say otherwise.
`steering_vectors.gguf` contains the same vectors for requests that name a file on the server:
`{{"vectors": [{{"source": "FILE", "apply": {{"prompt": "all", "generation": "all"}}}}]}}`.
"""


def _digest(tensors: dict[str, Any]) -> str:
    """Returns EasySteer's hash of a payload that has no further fields."""
    found = hashlib.sha256(f"{KIND}:{WIRE_VERSION}".encode())
    for name, part in sorted(tensors.items()):
        found.update(name.encode())
        found.update(str(tuple(part["shape"])).encode())
        found.update(base64.b64decode(part["data"]))
    return found.hexdigest()
