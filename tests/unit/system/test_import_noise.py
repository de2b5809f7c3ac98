"""Messages of imports on which nobody has to act are withheld, and only those."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import pytest

from steer_lightning.system.import_noise import NOISE, quiet_imports


@pytest.mark.parametrize("name", NOISE)
def test_only_the_known_messages_are_withheld(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger, known = logging.getLogger(name), f"{NOISE[name]} from somewhere: %s"
    with quiet_imports():
        with quiet_imports():  # a command within which a library is imported
            logger.warning(known, "no module")
        logger.warning(known, "no module")
        logger.warning("weights are damaged")
    assert caplog.messages == ["weights are damaged"]
    logger.warning(known, "no module")
    assert caplog.messages[1:] == [f"{NOISE[name]} from somewhere: no module"]


@pytest.mark.parametrize("name", NOISE)
def test_the_library_says_what_is_withheld(name: str) -> None:
    package, _, rest = name.partition(".")
    spec = find_spec(package)
    assert spec is not None, "the package depends on it"
    assert spec.origin is not None
    file = Path(spec.origin).parent / f"{rest.replace('.', '/')}.py"
    assert NOISE[name] in file.read_text()
