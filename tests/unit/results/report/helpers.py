"""What a page holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from steer_lightning.results.report import write_report


def contents(folder: Path) -> dict[str, Any]:
    """What the page of a run holds, read back from the page."""
    page = write_report(folder, overwrite=True).read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, Any] = json.loads(data)
    return found
