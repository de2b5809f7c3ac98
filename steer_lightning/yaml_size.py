"""Refuses a YAML file that would unfold into more than memory holds."""

from __future__ import annotations

from pathlib import Path

import yaml

from steer_lightning.errors import ConfigError

MAX_NODES = 100_000
"""Values of a configuration, each alias counted as what it stands for."""


def check_yaml_size(path: str) -> None:
    """Raises a ConfigError if a file of a few lines unfolds, alias by alias, into a huge tree.

    What is no readable YAML is left to the parser, which tells the line.
    """
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return
    if root is not None and _size(root, {}) > MAX_NODES:
        raise ConfigError(
            "config",
            path,
            rule=f"unfolds into more than {MAX_NODES:,} values",
            why="Its aliases repeat each other",
            fix="Write it without aliases (*name)",
        )


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a tree whose aliases are shared nodes; infinite where one holds itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # should it hold itself
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
