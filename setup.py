"""The packages of the wheel: pyproject.toml can't say that some folders lie beside the package.

`configs` and `project` stand at the top of the repository, where people look for them, and become
folders of the package in a wheel; `steer_lightning/cli/shipped.py` finds them in either place.
"""

from setuptools import find_packages, setup

BESIDE = {f"steer_lightning.{name}": name for name in ("configs", "project")}

setup(
    packages=[*find_packages(include=["steer_lightning*"]), *BESIDE],
    package_dir=BESIDE,
)
