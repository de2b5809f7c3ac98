"""The formats: what each checks before anything loads, writes, compares, and tells its users."""

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is exported, and where to.

    Attributes:
        base: The base.
        vectors: In the scale of the stream, with the factor of the export.
        output: The folder.
    """

    base: Base
    vectors: SteeringVectors
    output: Path


class Format(Protocol):
    """A format of `--to`."""

    def check(self, plan: Plan) -> None:
        """Raises a ConfigError if it can't hold these vectors; reads the configuration alone."""

    def write(self, plan: Plan, folder: Path) -> None:
        """Writes its files into an empty folder."""

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Reads the files back, and compares them with the steered base."""

    def usage(self, plan: Plan) -> str:
        """How the export is used, in Markdown."""


class Transformers:
    """A stock checkpoint of Hugging Face transformers."""

    def check(self, plan: Plan) -> None:
        """The base must be a Llama in all but the name."""
        check_llama_form(plan.base, "transformers")

    def write(self, plan: Plan, folder: Path) -> None:
        """A copy of the base with biases."""
        write_merged(plan.base, plan.vectors, folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Both models, a layer in memory at a time."""
        return compare_merged(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """Two lines of Python."""
        return _python(
            "from transformers import AutoModelForCausalLM",
            f"model = AutoModelForCausalLM.from_pretrained({_quoted(plan.output)})",
        )


class VLLM:
    """The same checkpoint, for vLLM."""

    def check(self, plan: Plan) -> None:
        """The base must be a Llama in all but the name."""
        check_llama_form(plan.base, "vllm")

    def write(self, plan: Plan, folder: Path) -> None:
        """A copy of the base with biases, checked for what vLLM reads."""
        write_merged(plan.base, plan.vectors, folder)
        check_for_vllm(folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """Both models by transformers, a layer in memory at a time."""
        return compare_merged(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """The command of the server."""
        dtype = str(plan.base.dtype).removeprefix("torch.")
        return f"```bash\n{serve_command(plan.output, dtype)}\n```\n"


class Peft:
    """An adapter of PEFT."""

    def check(self, plan: Plan) -> None:
        """Each decoder layer must end in a linear layer."""
        bias_home(plan.base)
        require_peft()

    def write(self, plan: Plan, folder: Path) -> None:
        """The adapter alone."""
        write_adapter(plan.base, plan.vectors, folder)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """The base with the adapter."""
        return compare_adapter(plan.base, plan.vectors, folder)

    def usage(self, plan: Plan) -> str:
        """Four lines of Python."""
        code = _python(
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            f"model = AutoModelForCausalLM.from_pretrained({_quoted(plan.base.path)})",
            f"model = PeftModel.from_pretrained(model, {_quoted(plan.output)})",
        )
        told = "PEFT can't merge it into a base without biases"
        does = "; `--to transformers` does" if has_llama_form(plan.base) else ""
        return f"{code}\n{told}{does}.\n"


class Gguf:
    """A control vector of llama.cpp."""

    def check(self, plan: Plan) -> None:
        """There must be a layer but the first."""
        require_gguf("gguf")
        if plan.vectors.layers == (0,):
            raise ConfigError(
                "to",
                "gguf",
                rule="can't hold a vector of layer 0, and there is no other one",
                why="llama.cpp has no control vector for layer 0",
                fix=KEEP_LAYER_0 if has_llama_form(plan.base) else NO_LAYER_0,
            )

    def write(self, plan: Plan, folder: Path) -> None:
        """All vectors but that of layer 0."""
        vectors = sliced(plan.vectors, [layer for layer in plan.vectors.layers if layer > 0])
        path = folder / control_vector.FILE
        write_control_vector(path, vectors, plan.base.config.model_type)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """The vectors, and what the model loses with that of layer 0."""
        read = read_control_vector(folder / control_vector.FILE, plan.vectors.num_layers)
        return compare_vectors(plan.base, plan.vectors, read)

    def usage(self, plan: Plan) -> str:
        """The command, and what is missing."""
        file = plan.output / control_vector.FILE
        command = f"llama-cli -m BASE.gguf --control-vector {shlex.quote(str(file))} -p PROMPT"
        told = f"```bash\n{command}\n```\n\n"
        told += f"`BASE.gguf` is {plan.base.name}, converted for llama.cpp.\n"
        if 0 in plan.vectors.layers:
            told += "\nLayer 0's vector is left out: llama.cpp has no control vector for it. "
            told += f"{KEEP_LAYER_0 if has_llama_form(plan.base) else NO_LAYER_0}.\n"
        return told


KEEP_LAYER_0 = (
    "To keep it, export --to transformers and convert that checkpoint with llama.cpp's "
    "convert_hf_to_gguf.py, which knows the biases of a Llama"
)
NO_LAYER_0 = "No file of this architecture can hold it in llama.cpp"


class EasySteer:
    """A request's steering for EasySteer's build of vLLM."""

    def check(self, plan: Plan) -> None:
        """Any decoder will do."""
        require_gguf("easysteer")

    def write(self, plan: Plan, folder: Path) -> None:
        """The specification with the weights in it, and the weights alone."""
        spec = json.dumps(easysteer.steering_spec(plan.vectors), indent=2)
        (folder / easysteer.FILE).write_text(f"{spec}\n")
        path = folder / control_vector.FILE
        write_control_vector(path, plan.vectors, plan.base.config.model_type)

    def compare(self, plan: Plan, folder: Path) -> Findings:
        """The vectors of both files."""
        num_layers = plan.vectors.num_layers
        source = read_control_vector(folder / control_vector.FILE, num_layers)
        check_read(plan.vectors, source)
        read = easysteer.read_spec(folder / easysteer.FILE, num_layers)
        return compare_vectors(plan.base, plan.vectors, read)

    def usage(self, plan: Plan) -> str:
        """The server's command, and a request."""
        return easysteer.usage(plan.base.path, plan.output)


def _quoted(path: str | Path) -> str:
    return json.dumps(str(path))


def _python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n"


FORMATS: dict[str, Format] = {
    "transformers": Transformers(),
    "peft": Peft(),
    "gguf": Gguf(),
    "vllm": VLLM(),
    "easysteer": EasySteer(),
}
