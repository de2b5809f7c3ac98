"""Lets tests import the extension of the documentation, as the build does."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parents[4] / "docs/_ext")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
