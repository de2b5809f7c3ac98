"""Messages that the docs quote are those that the package prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

QUOTED = [  # page, its quotation, and the source that prints it
    ("how-to/data.md", "It belongs to a base model", "data/templates.py"),
    ("how-to/data.md", "problems are also in", "data/prompts.py"),
    ("how-to/model.md", "It belongs to a base model", "data/templates.py"),
    ("how-to/reward.md", "or None for completions that can't be scored", "rewards/base.py"),
    ("how-to/reward.md", "crashed on all of them", "rewards/scoring.py"),
    ("how-to/memory.md", "tokens in flight: the rollout restarts with", "rollout/decode_engine.py"),
    ("how-to/memory.md", "to that number to skip the failed attempt", "rollout/decode_engine.py"),
    ("how-to/memory.md", "must be enough for the longest prompt (", "rollout/kv_cache.py"),
    ("how-to/memory.md", "tokens in its largest micro-batch", "training/batch.py"),
    (
        "explanation/engine.md",
        "does not decode correctly in DecodeEngine",
        "rollout/decode_engine.py",
    ),
]


@pytest.mark.parametrize(("page", "quoted", "source"), QUOTED)
def test_a_quoted_message_is_printed(root: Path, page: str, quoted: str, source: str) -> None:
    for file in (root / "docs" / page, root / "steer_lightning" / source):
        text = re.sub(r"\s+", " ", file.read_text())
        assert quoted in text, f"{file} does not say so"
