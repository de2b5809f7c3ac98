"""The part of the rollout server that runs in each of vLLM's workers, tested with vLLM 0.32.

vLLM imports this module because it is named as `worker_extension_cls`. The import replaces the
model classes of `STEERABLE` by subclasses whose decoder layers add a vector to their output. The
hook that adds it is there before vLLM compiles the model or captures CUDA graphs, and the vector is
a buffer that is only ever changed in place. So both contain it, and vLLM itself stays unpatched.
"""

from __future__ import annotations

from typing import Any

import torch
from rollout_server import STEERABLE
from safetensors.torch import load
from vllm import ModelRegistry


def _add_vector(layer: torch.nn.Module, inputs: Any, output: Any) -> Any:
    """Adds a layer's vector to its output.

    The layers of `STEERABLE` return (h, residual), and the stream is their sum.
    """
    return (output[0] + layer.steering_vector, *output[1:])


def _steered(model_class: type[Any]) -> type[Any]:
    """Returns a subclass of a model class whose decoder layers have vectors, zero at first."""

    class Steered(model_class):  # type: ignore[misc]  # known at run time only
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            width = vllm_config.model_config.hf_text_config.hidden_size
            for index in range(self.model.start_layer, self.model.end_layer):
                layer = self.model.layers[index]
                layer.register_buffer("steering_vector", torch.zeros(width), persistent=False)
                layer.register_forward_hook(_add_vector)

    return Steered


_PLAIN = {name: ModelRegistry.models[name] for name in STEERABLE}
for _name in STEERABLE:  # by name, so that only the served model's module is imported
    ModelRegistry.register_model(_name, f"{__name__}:{_name}")


def __getattr__(name: str) -> Any:
    """Makes a steered class when vLLM asks for it by the name that is registered above."""
    if name not in _PLAIN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _steered(_PLAIN[name].load_model_cls())


class SteeredWorker:
    """Methods that the server calls in each of vLLM's workers, by `collective_rpc`."""

    def set_vectors(self, packed: bytes, is_whole: bool) -> dict[str, bytes]:
        """Sets the vectors of layers.

        Args:
            packed: File of safetensors with a vector (D,) for some layers, by their index.
            is_whole: Whether the vectors of all other layers become zero.

        Returns:
            The bytes of this worker's vectors, as they are in the memory of the model.
        """
        vectors = load(packed)
        for index, buffer in self._steering_vectors().items():
            if index in vectors:
                buffer.copy_(vectors[index])
            elif is_whole:
                buffer.zero_()
        return self.get_vectors()

    def get_vectors(self) -> dict[str, bytes]:
        """Returns the bytes of the vectors of this worker's layers, by their index."""
        return {
            index: buffer.cpu().view(torch.uint8).numpy().tobytes()
            for index, buffer in self._steering_vectors().items()
        }

    def _steering_vectors(self) -> dict[str, torch.Tensor]:
        model = self.model_runner.get_model().model  # type: ignore[attr-defined]  # vLLM's worker
        return {
            str(index): model.layers[index].steering_vector
            for index in range(model.start_layer, model.end_layer)
        }
