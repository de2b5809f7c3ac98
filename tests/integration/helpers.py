"""What tests of `fit` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lens_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "lens.jsonl").read_text().splitlines()]


BNB = {
    "class_path": "bitsandbytes.optim.AdamW8bit",
    "init_args": {"lr": 0.05, "weight_decay": 0, "min_8bit_size": 0},
}


def set_in(config: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for key in parents:
        config = config[int(key) if key.isdigit() else key]  # type: ignore[index]
    config[last] = value
