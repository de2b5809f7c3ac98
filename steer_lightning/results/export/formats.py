"""The formats of an export: how each checks, writes and compares, and how its export is used."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from steer_lightning.errors import ConfigError
from steer_lightning.results.export import control_vector, easysteer
from steer_lightning.results.export.base import Base
from steer_lightning.results.export.control_vector import (
    read_control_vector,
    require_gguf,
    write_control_vector,
)
from steer_lightning.results.export.families import bias_home, check_llama_form, has_llama_form
from steer_lightning.results.export.merged import write_merged
from steer_lightning.results.export.peft_adapter import require_peft, write_adapter
from steer_lightning.results.export.proofs import (
    Findings,
    check_read,
    compare_adapter,
    compare_merged,
    compare_vectors,
)
from steer_lightning.results.export.vllm import check_for_vllm, serve_command
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import sliced
from steer_lightning.system.printable import one_line, python_text


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of an export.

    Attributes:
        base: Base model that the vectors steer.
        vectors: Vectors in the scale of the stream, multiplied by the factor of the export.
        output: Folder of the export.
    """

    base: Base
    vectors: SteeringVectors
    output: Path


class Format(Protocol):
    """Writes one of the formats of `--to`."""

    @property
    def lacks(self) -> tuple[int, ...]:
        """Layers whose vectors no file of the format can hold."""

    def check(self, plan: Plan) -> None:
        """Raises a ConfigError if the format can't hold the vectors; reads only configurations."""

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes the files of the export into an empty folder."""

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Reads the files back and compares them with the steered base."""

    def usage(self, plan: Plan) -> str:
        """Explains in Markdown how to use the export."""


class Transformers:
    """Writes a stock checkpoint of Hugging Face transformers."""

    lacks = ()

    def check(self, plan: Plan) -> None:
        """Requires that the base is a Llama in all but name."""
        check_llama_form(plan.base, "transformers")

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes a copy of the base with biases."""
        write_merged(plan.base, plan.vectors, folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Compares both models, with one layer in memory at a time."""
        return compare_merged(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """Returns the lines of Python that load it."""
        return _python(
            "from transformers import AutoModelForCausalLM",
            "",
            f"folder = {python_text(plan.output)}",
            "model = AutoModelForCausalLM.from_pretrained(folder)",
        )


class VLLM:
    """Writes the checkpoint of `Transformers` for vLLM."""

    lacks = ()

    def check(self, plan: Plan) -> None:
        """Requires that the base is a Llama in all but name."""
        check_llama_form(plan.base, "vllm")

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes a copy of the base with biases, and checks that vLLM can read it."""
        write_merged(plan.base, plan.vectors, folder)
        check_for_vllm(folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Compares both models with transformers, with one layer in memory at a time."""
        return compare_merged(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """Returns the command that starts the server."""
        dtype = str(plan.base.dtype).removeprefix("torch.")
        return f"```bash\n{serve_command(plan.output, dtype)}\n```\n"


class Peft:
    """Writes an adapter of PEFT."""

    lacks = ()

    def check(self, plan: Plan) -> None:
        """Requires that each decoder layer ends in a linear layer, and that PEFT is installed."""
        bias_home(plan.base)
        require_peft()

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes only the adapter."""
        write_adapter(plan.base, plan.vectors, folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Compares the base with the adapter against the steered base."""
        return compare_adapter(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """Returns the lines of Python that load it."""
        revision = plan.base.revision
        named = [f"revision = {python_text(revision)}"] if revision else []
        given = "base, revision=revision" if revision else "base"
        code = _python(
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f"base = {python_text(plan.base.path)}",
            *named,
            f"adapter = {python_text(plan.output)}",
            f"model = AutoModelForCausalLM.from_pretrained({given})",
            "model = PeftModel.from_pretrained(model, adapter)",
        )
        told = "PEFT can't merge it into a base without biases"
        does = "; `--to transformers` does" if has_llama_form(plan.base) else ""
        return f"{code}\n{told}{does}.\n"


class Gguf:
    """Writes a control vector of llama.cpp."""

    lacks = (0,)

    def check(self, plan: Plan) -> None:
        """Requires a vector for a layer other than layer 0, and the package gguf."""
        require_gguf("gguf")
        if plan.vectors.layers == (0,):
            raise ConfigError(
                "to",
                "gguf",
                rule="can't hold a vector of layer 0, and there is no other vector",
                why="llama.cpp has no control vector for layer 0",
                fix=KEEP_LAYER_0 if has_llama_form(plan.base) else NO_LAYER_0,
            )

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes all vectors except the one of layer 0."""
        held = [layer for layer in plan.vectors.layers if layer not in self.lacks]
        vectors = sliced(plan.vectors, held)
        path = folder / control_vector.FILE
        write_control_vector(path, vectors, plan.base.config.model_type)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Compares the vectors, and measures the effect of leaving out layer 0's vector."""
        read = read_control_vector(folder / control_vector.FILE, plan.vectors.num_layers)
        return compare_vectors(plan.base, plan.vectors, read)

    def usage(self, plan: Plan) -> str:
        """Returns the command, and says if layer 0's vector is missing."""
        file = plan.output / control_vector.FILE
        command = f"llama-cli -m BASE.gguf --control-vector {shlex.quote(str(file))} -p PROMPT"
        told = f"```bash\n{command}\n```\n\n"
        at = f" at revision {one_line(plan.base.revision)}" if plan.base.revision else ""
        told += f"`BASE.gguf` is {plan.base.name}{at}, converted for llama.cpp.\n"
        if 0 in plan.vectors.layers:
            told += "\nllama.cpp has no control vector for layer 0. "
            told += f"{KEEP_LAYER_0 if has_llama_form(plan.base) else NO_LAYER_0}.\n"
        return told


KEEP_LAYER_0 = (
    "To keep its vector, export --to transformers and convert that checkpoint with llama.cpp's "
    "convert_hf_to_gguf.py, which knows the biases of a Llama"
)
NO_LAYER_0 = "No file of this architecture can hold it in llama.cpp"


class EasySteer:
    """Writes the steering of a request for EasySteer's build of vLLM."""

    lacks = ()

    def check(self, plan: Plan) -> None:
        """Requires only the package gguf; any decoder architecture is possible."""
        require_gguf("easysteer")

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes the specification, which contains the weights, and a file of the weights alone."""
        spec = json.dumps(easysteer.steering_spec(plan.vectors), indent=2)
        (folder / easysteer.FILE).write_text(f"{spec}\n")
        path = folder / control_vector.FILE
        write_control_vector(path, plan.vectors, plan.base.config.model_type)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Compares the vectors of both files."""
        num_layers = plan.vectors.num_layers
        source = read_control_vector(folder / control_vector.FILE, num_layers)
        check_read(plan.vectors, source)
        read = easysteer.read_spec(folder / easysteer.FILE, num_layers)
        return compare_vectors(plan.base, plan.vectors, read)

    def usage(self, plan: Plan) -> str:
        """Returns the command of the server and an example of a request."""
        return easysteer.usage(plan.base.path, plan.output, plan.base.revision)


def _python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n"


FORMATS: dict[str, Format] = {
    "transformers": Transformers(),
    "peft": Peft(),
    "gguf": Gguf(),
    "vllm": VLLM(),
    "easysteer": EasySteer(),
}
