"""Which files a training step enters, in their order: the walk of docs/architecture.md.

    python scripts/step_walk.py

Every call of the second step of the quickstart is counted by `sys.setprofile`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import steer_lightning
from steer_lightning.cli import main
from steer_lightning.module import SteeringModule

PACKAGE = Path(steer_lightning.__file__).parent
CONFIG = PACKAGE.parent / "configs/quickstart.yaml"


class Walk:
    """Notes the files of the package whose functions are called in a block.

    Attributes:
        functions: First function that was called in each file, in the order of the calls.
    """

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}

    def __enter__(self) -> Walk:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            self.functions.setdefault(
                path.relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname
            )

    @property
    def rooms(self) -> list[str]:
        """Top-level places of these files, in alphabetical order."""
        return sorted({name.split("/")[0].removesuffix(".py") for name in self.functions})


def walk_of_a_step(config: Path = CONFIG, number: int = 2) -> Walk:
    """Trains by a configuration and walks one of its steps.

    Args:
        config: Configuration of `fit`.
        number: Step that is walked, counted from 1; the run ends with it.
    """
    walk, plain = Walk(), SteeringModule.training_step

    def walked(module: SteeringModule, batch: Any, batch_idx: int) -> None:
        if module.global_step + 1 < number:
            return plain(module, batch, batch_idx)
        with walk:
            return plain(module, batch, batch_idx)

    patched: Callable[..., None] = walked
    SteeringModule.training_step = patched  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = ["fit", "--config", str(config), "--trainer.callbacks=[]", "--ckpt_path=new"]
            words += [f"--trainer.default_root_dir={folder}", f"--trainer.max_steps={number}"]
            if main([*words, "--trainer.enable_progress_bar=false"]):
                raise SystemExit("the run failed; its message is above")
    finally:
        SteeringModule.training_step = plain  # type: ignore[method-assign]
    return walk


if __name__ == "__main__":
    found = walk_of_a_step()
    width = max(map(len, found.functions))
    for count, (name, function) in enumerate(found.functions.items(), 1):
        print(f"{count:2}  {name:{width}}  {function}")
    print(f"{len(found.functions)} files in {len(found.rooms)} rooms: {', '.join(found.rooms)}")
