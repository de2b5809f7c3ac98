"""The commands that install the package's extras, for messages about what is missing."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

PROJECT = "steer-lightning"


def install_command(extra: str) -> str:
    """Returns the command that installs an extra into this environment.

    In an environment with an editable install, the command names the clone, since an install
    without `-e` would replace it by a copy, on which later edits have no effect.

    Args:
        extra: Name of the extra, such as `export`.
    """
    clone = _clone()
    if clone is None:
        return f'pip install "{PROJECT}[{extra}]"'
    return f'pip install -e "{clone}[{extra}]"'


def _clone() -> Path | None:
    """Returns the folder of an editable install; None for any other install."""
    try:
        text = distribution(PROJECT).read_text("direct_url.json")
    except PackageNotFoundError:  # the source is on the path, and nothing is installed
        return None
    origin = json.loads(text or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlsplit(origin["url"]).path))
